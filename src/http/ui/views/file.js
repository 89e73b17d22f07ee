// One file: what it is, how to hand it on, whether it is well, and the thing itself.

import { get, post, query } from '../api.js';
import { grid } from '../blocks.js';
import { copyField, qr } from '../copy.js';
import { fill, h, say } from '../dom.js';
import { downloadLink } from '../downloading.js';
import { events } from '../events.js';
import { bytes, called, date, number, plural, visible } from '../format.js';
import { icon } from '../icons.js';
import { complain, empty, failure, loading } from '../notes.js';
import { follow as openEntry } from '../opening.js';
import { kindOf, preview, shownAtOnce } from '../preview.js';
import { card as healthCard } from '../health.js';
import { removal, removeFile } from '../removing.js';
import { session } from '../session.js';

export const title = 'File';

/** After an event, so long for others of its kind to come; and how often other nodes are asked at most. */
const SETTLED_MS = 800;
const SELDOM_MS = 4000;
/** How often it is looked again while not all of the file is here: nothing tells of blocks that come one by one. */
const LOOK_MS = 20000;
/** What a preview tells when more of it has been read. */
const READ = ['load', 'loadeddata', 'progress', 'suspend', 'ended'];
/** A folder of more entries is a list that scrolls, so that what comes below it is found. */
const LONG = 12;
/** Entries of a folder that come at once when more are asked for. */
const ENTRIES = 1000;

export async function show(view) {
  const { body, id, signal, retitle } = view;
  fill(body, loading());
  try {
    const info = await get(`/files/${encodeURIComponent(id)}`, signal);
    retitle(called(info.name));
    draw(view, info);
  } catch (problem) {
    failure(body, problem, () => show(view));
  }
}

function draw({ body, head, signal }, info) {
  const result = h('div', { role: 'status' });
  const verify = h(
    'button',
    { type: 'button', on: { click: () => check(info, verify, result) } },
    icon('shield'),
    'Verify',
  );
  // The heading stays where it is: it may have the focus.
  head.querySelector('.buttons')?.remove();
  head.append(
    h(
      'div',
      { class: 'buttons' },
      downloadLink(
        info,
        { class: 'button main' },
        icon('down'),
        info.kind === 'dir' ? 'Download as tar' : 'Download',
      ),
      // Of what is only opened, nothing needs to be here.
      session.may('write') && info.pinned && verify,
      session.may('write') &&
        h(
          'button',
          { type: 'button', class: info.pinned ? 'danger' : null, on: { click: () => end(info) } },
          icon(info.pinned ? 'bin' : 'cross'),
          removal(info),
        ),
    ),
  );
  const health = healthCard(info, signal);
  const blocks = grid(info.cid, signal);
  const seen = shown(info, signal);
  let known = facts(info);
  fill(
    body,
    result,
    seen,
    info.entries && folder(info, signal),
    h(
      'div',
      { class: 'cards' },
      link(info),
      health.element,
      known,
      h('section', { class: 'card' }, h('h2', {}, 'Blocks'), blocks.element),
    ),
  );
  follow(info, signal, {
    seen,
    whole: health.whole,
    changed: async () => {
      const now = await get(`/files/${info.cid}`, signal);
      const fresh = facts(now);
      // What is being read stays open.
      fresh.querySelector('details').open = known.querySelector('details').open;
      if (!fresh.isEqualNode(known) && !known.contains(document.activeElement)) {
        known.replaceWith(fresh);
        known = fresh;
      }
      health.again();
      blocks.again();
    },
    removed: () => {
      head.querySelector('.buttons')?.remove();
      fill(
        body,
        empty(
          'This file was deleted.',
          'Somebody deleted it on this node while you looked at it. Who has the link may still read it from others.',
          h('a', { class: 'button', href: '#/files' }, 'All files'),
        ),
      );
    },
  });
}

/**
 * Calls `changed` a little after something happened that what is said of the file may hang on, and `removed`. Until it is
 * `whole`, what is `seen` of it brings blocks.
 */
function follow(info, signal, { seen, whole, changed, removed }) {
  const gone = new AbortController();
  const watched = AbortSignal.any([signal, gone.signal]);
  let timer = null;
  let last = performance.now();
  const soon = () => {
    const wait = Math.max(SETTLED_MS, last + SELDOM_MS - performance.now());
    timer ??= setTimeout(async () => {
      timer = null;
      last = performance.now();
      // What cannot be asked now stays as it is: the banner tells, and the next event asks again.
      if (!watched.aborted) await changed().catch(() => {});
    }, wait);
  };
  const read = ({ name, ended }) => ended && [info.name, info.cid].includes(name);
  events.addEventListener(
    'event',
    ({ detail }) => {
      const { type, cid } = detail;
      if (type === 'removed' && cid === info.cid) {
        gone.abort();
        removed();
      } else if (
        ['peer_connected', 'peer_lost', 'bad_block', 'collected', 'skipped'].includes(type) ||
        (['stored', 'announced'].includes(type) && cid === info.cid) ||
        (type === 'transfer' && read(detail))
      )
        soon();
    },
    { signal: watched },
  );
  // These events do not bubble.
  for (const type of READ) seen?.addEventListener(type, () => whole() || soon(), { capture: true, signal: watched });
  const again = setInterval(() => document.hidden || whole() || soon(), LOOK_MS);
  watched.addEventListener(
    'abort',
    () => {
      clearTimeout(timer);
      clearInterval(again);
    },
    { once: true },
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
    fact('Type', info.kind === 'dir' ? 'folder' : (info.media_type ? visible(info.media_type) : 'unknown')),
    fact('CID', h('span', { class: 'mono break' }, info.cid)),
    fact(info.pinned ? 'Stored here' : 'Opened here', info.created ? date(info.created) : 'no'),
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

/** What is in a folder; of a large one the first of it, and the rest on demand. */
function folder(info, signal) {
  const long = info.entries.length > LONG;
  const list = h(
    'ul',
    { class: `rows entries${long ? ' long' : ''}`, tabindex: long ? '0' : null, 'aria-label': 'Entries' },
    info.entries.map(inside),
  );
  const words = h('p', { class: 'hint', role: 'status' });
  const more = h('button', { type: 'button', on: { click: load } }, 'Show more');
  const wrong = h('div');
  let next = info.entries_next ?? null;
  const tell = () => {
    more.hidden = !next;
    if (next) say(words, `These are the first ${number(list.children.length)}; there are more.`);
    else say(words, list.children.length ? plural(list.children.length, 'entry', 'entries') : 'It is empty.');
  };

  async function load() {
    if (more.ariaDisabled) return;
    // It stays where it is, so that it keeps the focus.
    more.ariaDisabled = 'true';
    fill(wrong);
    try {
      const page = await get(`/files/${info.cid}/entries${query({ cursor: next, limit: ENTRIES })}`, signal);
      const first = list.children.length;
      list.append(...page.entries.map(inside));
      next = page.next ?? null;
      // The button goes with the last of them: the focus goes to what it has brought.
      if (!next && document.activeElement === more) {
        list.children[first]?.setAttribute('tabindex', '-1');
        list.children[first]?.focus();
      }
      tell();
    } catch (problem) {
      failure(wrong, problem, load);
    }
    more.ariaDisabled = null;
  }

  tell();
  return h('section', { class: 'card' }, h('h2', {}, 'In this folder'), list, words, wrong, more);
}

/** One entry of a folder. Who may only look has no link to it, so there is nothing to open. */
function inside({ kind, name, link: to, size }) {
  const open = () => openEntry(to).catch(complain);
  return h(
    'li',
    {},
    icon(kind === 'dir' ? 'folder' : 'files'),
    to && session.may('write')
      ? h('button', { type: 'button', class: 'text', on: { click: open } }, called(name))
      : h('span', { class: 'break' }, called(name)),
    h('span', { class: 'hint' }, bytes(size)),
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
