// Looking at a file in the browser. What is shown cannot act: pictures and media are elements, text is text nodes, and
// a PDF is in a frame, with the browser's own viewer.

import { request } from './api.js';
import { fill, h } from './dom.js';
import { bytes, called } from './format.js';
import { lament, obstacle } from './downloading.js';
import { failure, loading } from './notes.js';

const TEXT_LEN = 256 * 1024;
const TEXTS = /^(text\/|application\/(json|xml|toml|yaml|x-yaml|javascript|x-sh|x-tex|sql)$)/;
const PICTURES = /^image\/(png|jpeg|gif|webp|avif|bmp|x-icon|vnd\.microsoft\.icon)$/;
/** What is fetched without being asked for. */
const AT_ONCE = { picture: 32 * 1024 * 1024, video: Infinity, audio: Infinity, text: Infinity, pdf: 64 * 1024 * 1024 };

/** How a file can be shown: picture | video | audio | text | pdf, or null. */
export function kindOf({ kind, media_type: said }) {
  if (kind !== 'file' || !said) return null;
  const type = said.split(';')[0].trim().toLowerCase();
  if (PICTURES.test(type)) return 'picture';
  if (type.startsWith('video/')) return 'video';
  if (type.startsWith('audio/')) return 'audio';
  if (type === 'application/pdf') return 'pdf';
  return TEXTS.test(type) || type === 'image/svg+xml' ? 'text' : null;
}

/** Whether it is shown without a click: it is here, and not too much. */
export const shownAtOnce = (info) => info.pinned && info.size <= (AT_ONCE[kindOf(info)] ?? -1);

/** The element that shows the file. */
export function preview(info, signal) {
  const url = `/api/v1/files/${info.cid}/content?inline=1`;
  const name = called(info.name);
  const place = h('div', { class: 'preview' });
  const again = () => place.replaceWith(preview(info, signal));
  const told = (problem) => {
    if (problem.name === 'AbortError') return;
    lament(info, problem);
    failure(place, problem, again);
  };
  // The browser does not say what was wrong: the node does, where it was about the bytes.
  const wrong = (text) => async () => {
    const problem = await obstacle(info, signal);
    told(problem ?? { message: text, hint: 'Download it instead; if that fails too, check the file.' });
  };
  switch (kindOf(info)) {
    case 'picture':
      return fill(place, h('img', { src: url, alt: name, on: { error: wrong('The picture could not be shown.') } }));
    case 'video':
      return fill(
        place,
        h('video', {
          src: url,
          controls: true,
          preload: 'metadata',
          playsinline: true,
          'aria-label': name,
          on: { error: wrong('The video could not be played.') },
        }),
      );
    case 'audio':
      return fill(
        place,
        h('audio', {
          src: url,
          controls: true,
          preload: 'metadata',
          'aria-label': name,
          on: { error: wrong('The sound could not be played.') },
        }),
      );
    case 'pdf':
      fill(place, loading());
      // A frame would show the node's refusal as a document.
      obstacle(info, signal).then((problem) => {
        if (problem) return told(problem);
        return fill(
          place,
          h('iframe', { src: url, title: name }),
          h('p', { class: 'hint' }, 'Empty? Then this browser has no viewer for PDF: download it.'),
        );
      });
      return place;
    default:
      showText(place, info, url, signal);
      return place;
  }
}

async function showText(place, info, url, signal) {
  fill(place, loading());
  try {
    const headers = info.size > TEXT_LEN ? { range: `bytes=0-${TEXT_LEN - 1}` } : {};
    const response = await request('GET', url.replace('/api/v1', ''), { headers, signal });
    const text = new TextDecoder().decode(await response.arrayBuffer());
    fill(
      place,
      h('pre', { tabindex: '0', 'aria-label': `Text of ${called(info.name)}` }, text),
      info.size > TEXT_LEN && h('p', { class: 'hint' }, `The first ${bytes(TEXT_LEN)} of ${bytes(info.size)}.`),
    );
    // As a picture does.
    place.dispatchEvent(new Event('load'));
  } catch (problem) {
    if (problem.name === 'AbortError') return;
    lament(info, problem);
    failure(place, problem, () => showText(place, info, url, signal));
  }
}
