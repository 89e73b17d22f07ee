// Previews of files. Nothing in a file can run: pictures and media are elements, text becomes text nodes, and a PDF is
// shown by the browser's own viewer in a frame.

import { API, request } from './api.js';
import { fill, h } from './dom.js';
import { checkReadable, logReadFailure } from './download.js';
import { apiPath } from './file-address.js';
import { bytes, displayName } from './format.js';
import { loading, showProblem } from './placeholders.js';
import { ownProblem } from './problem.js';

const MAX_TEXT = 256 * 1024;
const TEXT_TYPES = /^(text\/|application\/(json|xml|toml|yaml|x-yaml|javascript|x-sh|x-tex|sql)$)/;
const PICTURE_TYPES = /^image\/(png|jpeg|gif|webp|avif|bmp|x-icon|vnd\.microsoft\.icon)$/;
/** The largest file that is shown without a click, by kind of preview. */
const MAX_AUTOMATIC = { picture: 32 * 1024 * 1024, video: Infinity, audio: Infinity, text: Infinity, pdf: 64 * 1024 * 1024 };

/** The kind of preview: picture | video | audio | text | pdf; null if there is none. */
export function previewKind({ kind, media_type: mediaType }) {
  if (kind !== 'file' || !mediaType) return null;
  const type = mediaType.split(';')[0].trim().toLowerCase();
  if (PICTURE_TYPES.test(type)) return 'picture';
  if (type.startsWith('video/')) return 'video';
  if (type.startsWith('audio/')) return 'audio';
  if (type === 'application/pdf') return 'pdf';
  return TEXT_TYPES.test(type) || type === 'image/svg+xml' ? 'text' : null;
}

/** Whether the preview opens without a click: the file is stored here and not too large. */
export const opensAutomatically = (info) => info.pinned && info.size <= (MAX_AUTOMATIC[previewKind(info)] ?? -1);

/** The element that shows the file. */
export function preview(info, signal) {
  const path = apiPath(info, '/content', { inline: 1 });
  const url = API + path;
  const name = displayName(info.name);
  const container = h('div', { class: 'preview' });
  const retry = () => container.replaceWith(preview(info, signal));
  const fail = (problem) => {
    if (problem.name === 'AbortError') return;
    logReadFailure(info, problem);
    showProblem(container, problem, retry);
  };
  // The browser does not say why an element failed. If the bytes are the cause, the node does.
  const onError = (message) => async () => {
    const problem = await checkReadable(info, signal);
    fail(problem ?? ownProblem(message, 'Download the file instead.'));
  };
  switch (previewKind(info)) {
    case 'picture':
      return fill(container, h('img', { src: url, alt: name, on: { error: onError('Could not show the picture.') } }));
    case 'video':
      return fill(
        container,
        h('video', {
          src: url,
          controls: true,
          preload: 'metadata',
          playsinline: true,
          'aria-label': name,
          on: { error: onError('Could not play the video.') },
        }),
      );
    case 'audio':
      return fill(
        container,
        h('audio', {
          src: url,
          controls: true,
          preload: 'metadata',
          'aria-label': name,
          on: { error: onError('Could not play the audio.') },
        }),
      );
    case 'pdf':
      fill(container, loading());
      // A frame would show the node's problem document as if it were the file.
      checkReadable(info, signal).then((problem) => {
        if (problem) return fail(problem);
        return fill(
          container,
          h('iframe', { src: url, title: name }),
          h('p', { class: 'hint' }, 'If nothing appears, this browser cannot show PDF files. Download the file instead.'),
        );
      });
      return container;
    default:
      showText(container, info, path, signal);
      return container;
  }
}

async function showText(container, info, path, signal) {
  fill(container, loading());
  try {
    const headers = info.size > MAX_TEXT ? { range: `bytes=0-${MAX_TEXT - 1}` } : {};
    const response = await request('GET', path, { headers, signal });
    const text = new TextDecoder().decode(await response.arrayBuffer());
    fill(
      container,
      h('pre', { tabindex: '0', 'aria-label': `Text of ${displayName(info.name)}` }, text),
      info.size > MAX_TEXT && h('p', { class: 'hint' }, `First ${bytes(MAX_TEXT)} of ${bytes(info.size)}`),
    );
    // As a picture does: the file view updates the health of the file on `load`.
    container.dispatchEvent(new Event('load'));
  } catch (problem) {
    if (problem.name === 'AbortError') return;
    logReadFailure(info, problem);
    showProblem(container, problem, () => showText(container, info, path, signal));
  }
}
