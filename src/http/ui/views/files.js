// The list of files: search, sort and pages, all done by the node, so that it is as quick with 100,000 as with ten.

import { adding } from '../adding.js';
import { get, query } from '../api.js';
import { fill, h, say } from '../dom.js';
import { events } from '../events.js';
import { bytes, date, plural, short } from '../format.js';
import { icon } from '../icons.js';
import { complain, empty, failure, loading } from '../notes.js';
import { openLink } from '../opening.js';
import { removeFile } from '../removing.js';
import * as router from '../router.js';
import { session } from '../session.js';

export const title = 'Files';

const PAGE = 50;
const TYPING_MS = 180;
const COLUMNS = [
  ['name', 'Name'],
  ['size', 'Size'],
  ['created', 'Stored'],
];

export function show({ body, head, query: at, signal }) {
  const wanted = { q: at.get('q') ?? '', sort: at.get('sort') ?? 'created', order: at.get('order') ?? 'desc' };
  // The cursors of the pages up to this one; the first has none.
  let trail = [null];
  let request = null;
  let next = null;

  const search = h('input', {
    type: 'search',
    id: 'search',
    value: wanted.q,
    autocomplete: 'off',
    spellcheck: 'false',
    on: { input: typed },
  });
  const count = h('p', { class: 'hint', role: 'status' });
  const rows = h('tbody');
  const heads = COLUMNS.map(([key, label]) =>
    h(
      'th',
      { scope: 'col', class: key },
      h(
        'button',
        { type: 'button', class: 'sort', on: { click: () => sortBy(key) } },
        label,
        h('span', { class: 'way', 'aria-hidden': 'true' }),
      ),
    ),
  );
  const table = h(
    'table',
    { class: 'files' },
    h('caption', { class: 'unseen' }, 'Files on this node'),
    h('thead', {}, h('tr', {}, heads, h('th', { scope: 'col' }, h('span', { class: 'unseen' }, 'Actions')))),
    rows,
  );
  const state = h('div', {}, loading());
  const back = h('button', { type: 'button', on: { click: () => turn(-1) } }, 'Previous');
  const on = h('button', { type: 'button', on: { click: () => turn(1) } }, 'Next');
  const pageNo = h('span', { class: 'hint' });
  const pages = h('nav', { class: 'pages', 'aria-label': 'Pages' }, back, pageNo, on);
  head.append(
    h(
      'div',
      { class: 'buttons' },
      session.may('write') && h('button', { type: 'button', on: { click: openLink } }, icon('link'), 'Open a link'),
    ),
  );
  fill(
    body,
    session.may('write') && adding(),
    h('div', { class: 'bar-of-tools' }, h('label', { for: 'search' }, 'Search by name'), search, count),
    state,
    table,
    pages,
  );

  let timer = null;
  function typed() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      wanted.q = search.value.trim();
      restart();
    }, TYPING_MS);
  }

  function sortBy(key) {
    const first = key === 'name' ? 'asc' : 'desc';
    const other = { asc: 'desc', desc: 'asc' }[wanted.order];
    wanted.order = wanted.sort === key ? other : first;
    wanted.sort = key;
    restart();
  }

  function restart() {
    trail = [null];
    router.remember('files', { ...wanted });
    load();
  }

  function turn(step) {
    if (step > 0) trail.push(next);
    else trail.pop();
    load().then(() => table.scrollIntoView({ block: 'nearest' }));
  }

  async function load() {
    request?.abort();
    const mine = new AbortController();
    request = mine;
    table.setAttribute('aria-busy', 'true');
    try {
      const list = await get(
        `/files${query({ ...wanted, cursor: trail.at(-1), limit: PAGE })}`,
        AbortSignal.any([signal, mine.signal]),
      );
      if (!list.files.length && trail.length > 1) {
        // The last file of this page is gone.
        trail.pop();
        return await load();
      }
      draw(list);
    } catch (problem) {
      if (problem.name === 'AbortError') return;
      table.hidden = true;
      pages.hidden = true;
      failure(state, problem, load);
    }
    table.removeAttribute('aria-busy');
  }

  function draw({ files, next: more, total }) {
    next = more ?? null;
    COLUMNS.forEach(([key], i) => {
      const sorted = wanted.sort === key;
      if (sorted) heads[i].setAttribute('aria-sort', wanted.order === 'asc' ? 'ascending' : 'descending');
      else heads[i].removeAttribute('aria-sort');
      say(heads[i].querySelector('.way'), sorted ? (wanted.order === 'asc' ? '↑' : '↓') : '');
    });
    fill(rows, files.map(row));
    table.hidden = !files.length;
    pages.hidden = trail.length === 1 && !next;
    back.disabled = trail.length === 1;
    on.disabled = !next;
    const known = total ?? files.length;
    say(count, known || wanted.q ? `${plural(known, 'file')}${wanted.q ? ` with “${wanted.q}”` : ''}` : '');
    say(pageNo, total ? `Page ${trail.length} of ${Math.max(1, Math.ceil(total / PAGE))}` : `Page ${trail.length}`);
    if (files.length) fill(state);
    else if (wanted.q)
      fill(
        state,
        empty(
          'No file has that in its name.',
          'Names are searched, not contents.',
          h('button', { type: 'button', on: { click: clear } }, 'Clear the search'),
        ),
      );
    else fill(state, empty('No files yet.', 'What you store or open by a link appears here.'));
  }

  function clear() {
    search.value = '';
    wanted.q = '';
    search.focus();
    restart();
  }

  function row(file) {
    const name = file.name ?? 'unnamed';
    const word = (text) => h('span', { class: 'tag' }, text);
    const url = `/api/v1/files/${file.cid}/content`;
    return h(
      'tr',
      {},
      h(
        'th',
        { scope: 'row', class: 'name' },
        icon(file.kind === 'dir' ? 'folder' : 'files'),
        h('a', { href: `#/file/${file.cid}`, title: name }, name),
        ' ',
        !file.name && h('span', { class: 'hint mono' }, short(file.cid)),
        !file.pinned && word('not kept'),
        !file.sealed && word('public'),
      ),
      h('td', { class: 'size' }, bytes(file.size)),
      h('td', { class: 'created' }, date(file.created)),
      h(
        'td',
        { class: 'act' },
        h(
          'a',
          {
            class: 'button quiet',
            href: url,
            download: file.name ?? file.cid,
            'aria-label': `Download ${name}`,
            title: 'Download',
          },
          icon('down'),
        ),
        session.may('write') &&
          h(
            'button',
            {
              type: 'button',
              class: 'quiet',
              'aria-label': `Delete ${name}`,
              title: 'Delete',
              on: { click: () => drop(file) },
            },
            icon('bin'),
          ),
      ),
    );
  }

  async function drop(file) {
    try {
      if (await removeFile(file)) {
        await load();
        search.focus();
      }
    } catch (problem) {
      complain(problem);
    }
  }

  // Many files stored at once make one reload, not many.
  let soon = null;
  events.addEventListener(
    'event',
    ({ detail }) => {
      if (!['stored', 'removed'].includes(detail.type)) return;
      soon ??= setTimeout(() => {
        soon = null;
        if (!rows.contains(document.activeElement)) load();
      }, 400);
    },
    { signal },
  );
  signal.addEventListener('abort', () => {
    clearTimeout(soon);
    clearTimeout(timer);
    request?.abort();
  });
  load();
}
