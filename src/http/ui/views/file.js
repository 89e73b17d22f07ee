// One file: what it is, how to hand it on, whether it is well, and the thing itself.

import { get, post } from '../api.js';
import { grid } from '../blocks.js';
import { copyField, qr } from '../copy.js';
import { fill, h } from '../dom.js';
import { bytes, date, number, plural } from '../format.js';
import { icon } from '../icons.js';
import { complain, failure, loading } from '../notes.js';
import { follow } from '../opening.js';
import { kindOf, preview, shownAtOnce } from '../preview.js';
import { card as healthCard } from '../health.js';
import { removeFile } from '../removing.js';
import { session } from '../session.js';

export const title = 'File';

export async function show(view) {
  const { body, id, signal, retitle } = view;
  fill(body, loading());
  try {
    const info = await get(`/files/${encodeURIComponent(id)}`, signal);
    retitle(info.name ?? 'Unnamed file');
    draw(view, info);
  } catch (problem) {
    failure(body, problem, () => show(view));
  }
}

function draw({ body, head, signal }, info) {
  const url = `/api/v1/files/${info.cid}/content`;
  const result = h('div', { role: 'status' });
  const verify = h(
    'button',
    { type: 'button', on: { click: () => check(info, verify, result) } },
    icon('shield'),
    'Verify',
  );
  fill(
    head,
    head.firstElementChild,
    h(
      'div',
      { class: 'buttons' },
      h(
        'a',
        { class: 'button main', href: url, download: info.name ?? info.cid },
        icon('down'),
        info.kind === 'dir' ? 'Download as tar' : 'Download',
      ),
      session.may('write') && verify,
      session.may('write') &&
        h('button', { type: 'button', class: 'danger', on: { click: () => end(info) } }, icon('bin'), 'Delete'),
    ),
  );
  fill(
    body,
    result,
    shown(info, signal),
    h(
      'div',
      { class: 'cards' },
      link(info),
      healthCard(info, signal),
      facts(info),
      h('section', { class: 'card' }, h('h2', {}, 'Blocks'), grid(info.cid, signal)),
    ),
    info.entries && folder(info),
  );
}

function shown(info, signal) {
  const kind = kindOf(info);
  if (!kind) return null;
  const place = h('section', { 'aria-label': 'Preview' });
  const open = () => fill(place, preview(info, signal));
  if (shownAtOnce(info)) open();
  else {
    fill(
      place,
      h(
        'div',
        { class: 'state' },
        h('p', {}, info.pinned ? `${bytes(info.size)} to show.` : 'The bytes may still be with others.'),
        h('button', { type: 'button', on: { click: open } }, icon('play'), 'Open here'),
      ),
    );
  }
  return place;
}

function link(info) {
  const card = h('section', { class: 'card' }, h('h2', {}, 'Link'));
  if (!info.link) {
    card.append(
      h(
        'p',
        { class: 'hint' },
        session.may('write')
          ? 'This node does not know the key of the file, so there is no link to give.'
          : 'You are signed in to read: links are for those who may write.',
      ),
    );
    return card;
  }
  card.append(
    h(
      'p',
      { class: 'hint' },
      info.sealed
        ? 'Who has the link can read the file. Treat it like the file itself.'
        : 'The file is public: its link has no key, and anyone who finds it can read it.',
    ),
    copyField('link', info.link),
  );
  const code = h(
    'details',
    {
      on: {
        toggle: () => code.open && !code.querySelector('.qr') && code.append(qr(info.link, 'QR code of the link')),
      },
    },
    h('summary', {}, icon('qr'), 'QR code'),
  );
  card.append(code);
  return card;
}

function facts(info) {
  const fact = (name, ...value) => [h('dt', {}, name), h('dd', {}, value)];
  const list = h(
    'dl',
    {},
    fact('Size', info.size >= 1024 ? `${bytes(info.size)} (${number(info.size)} bytes)` : bytes(info.size)),
    fact('Type', info.kind === 'dir' ? 'folder' : (info.media_type ?? 'unknown')),
    fact('CID', h('span', { class: 'mono break' }, info.cid)),
    fact('Stored here', info.created ? date(info.created) : 'no'),
    info.mtime && fact('Changed', date(info.mtime)),
    fact('Encrypted', info.sealed ? 'yes' : 'no, public'),
    fact('Kept', info.pinned ? 'yes, until it is deleted' : 'no, only known or cached'),
    info.blocks && fact('Blocks', `${number(info.blocks)}, ${bytes(info.stored_len)} on disk`),
    info.chunker && fact('Cut by', info.chunker),
  );
  const name = h(
    'details',
    {},
    h('summary', {}, 'Rename?'),
    h(
      'p',
      { class: 'hint' },
      'That is not possible. The name is sealed inside the file, and CID and link follow from what is inside: another name would be another file with another link. Store it again under the new name: the blocks are the same, so it costs next to nothing.',
    ),
  );
  return h('section', { class: 'card' }, h('h2', {}, 'Facts'), list, name);
}

function folder(info) {
  const open = (entry) => follow(entry.link).catch(complain);
  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'In this folder'),
    info.entries.length
      ? h(
          'ul',
          { class: 'rows entries' },
          info.entries.map((entry) =>
            h(
              'li',
              {},
              icon(entry.kind === 'dir' ? 'folder' : 'files'),
              h('button', { type: 'button', class: 'text', on: { click: () => open(entry) } }, entry.name),
              h('span', { class: 'hint' }, bytes(entry.size)),
            ),
          ),
        )
      : h('p', { class: 'hint' }, 'It is empty.'),
  );
}

async function check(info, button, place) {
  button.disabled = true;
  fill(place, loading('Every block is read and checked…'));
  try {
    const { checked, bytes: size, bad, missing, repaired } = await post(`/files/${info.cid}/verify`);
    const lost = bad.length + missing.length - repaired.length;
    fill(
      place,
      h(
        'div',
        { class: `state ${lost > 0 ? 'bad' : 'ok'}` },
        icon(lost > 0 ? 'warning' : 'check'),
        h(
          'p',
          {},
          h(
            'strong',
            {},
            lost > 0
              ? `${plural(lost, 'block')} of this file ${lost === 1 ? 'is' : 'are'} damaged or missing.`
              : 'Every block is what its name says.',
          ),
          h(
            'span',
            { class: 'hint' },
            `${plural(checked, 'block')}, ${bytes(size)} read${repaired.length ? `; ${number(repaired.length)} fetched anew from peers` : ''}.${lost > 0 ? ' Connect a node that has the file and verify again.' : ''}`,
          ),
        ),
      ),
    );
  } catch (problem) {
    failure(place, problem, () => check(info, button, place));
  }
  button.disabled = false;
}

async function end(info) {
  try {
    if (await removeFile(info)) location.hash = '#/files';
  } catch (problem) {
    complain(problem);
  }
}
