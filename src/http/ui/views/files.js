// The list of files: search, sort and pages, all done by the node, so that it is as quick with 100,000 as with ten.

import { adding } from '../adding.js';
import { get, query } from '../api.js';
import { downloadLink } from '../downloading.js';
import { fill, h, say } from '../dom.js';
import { events } from '../events.js';
import { bytes, called, date, number, plural, short, visible } from '../format.js';
import { icon } from '../icons.js';
import { complain, empty, failure, loading } from '../notes.js';
import { follow, openLink } from '../opening.js';
import { removeFile } from '../removing.js';
import * as router from '../router.js';
import { session } from '../session.js';

export const title = 'Files';

const SIZES = [50, 200];
const SIZE_NAME = 'storgo-page-size';
const TYPING_MS = 180;
/** A CID, or a link; the key of a link is nothing to search for. */
const REFERENCE = /^(?:storgo:\/\/)?(b[a-z2-7]{30,})(?:#.*)?$/;
const COLUMNS = [
  ['name', 'Name'],
  ['size', 'Size'],
  ['created', 'Stored'],
];

/** Files on a page: as the address says, or as was chosen last. */
function sizeOf(at) {
  let last = null;
  try {
    last = localStorage.getItem(SIZE_NAME);
  } catch {
    /* the browser keeps nothing */
  }
  return [Number(at.get('size')), Number(last)].find((size) => SIZES.includes(size)) ?? SIZES[0];
}

export function show({ body, head, query: at, signal }) {
  const wanted = { q: at.get('q') ?? '', sort: at.get('sort') ?? 'created', order: at.get('order') ?? 'desc' };
  let size = sizeOf(at);
  // The cursors of the pages up to this one; the first has none. Of those before it, only this tab's history knows.
  const page = Math.max(1, Math.floor(Number(at.get('page'))) || 1);
  let trail = [null];
  if (page > 1 && at.get('cursor')) {
    const before = router.remembered()?.trail;
    trail = before?.at(-1) === at.get('cursor') && before.length === page ? before : Array(page).fill(null);
    trail[page - 1] = at.get('cursor');
  }
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
  const sizes = h(
    'select',
    { id: 'page-size', on: { change: resize } },
    SIZES.map((count) => h('option', { value: count, selected: count === size }, number(count))),
  );
  const perPage = h('span', { class: 'per-page' }, h('label', { for: 'page-size', class: 'hint' }, 'Per page'), sizes);
  const pages = h('nav', { class: 'pages', 'aria-label': 'Pages' }, back, pageNo, on, perPage);
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
    h('div', { class: 'bar-of-tools' }, h('label', { for: 'search' }, 'Search by name, CID or link'), search, count),
    state,
    table,
    pages,
  );

  let timer = null;
  /** The link that was put into the search: it goes to the node alone, and only when it is to be opened. */
  let link = null;
  function typed() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const said = search.value.trim();
      // The key of a link belongs into no address.
      const [, cid] = REFERENCE.exec(said) ?? [];
      if (cid) {
        link = said.includes('#') ? said : null;
        search.value = cid;
      }
      wanted.q = cid ?? said;
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
    remember();
    load();
  }

  function remember() {
    const where = trail.length > 1 ? { page: trail.length, cursor: trail.at(-1) } : {};
    router.remember('files', { ...wanted, size: size === SIZES[0] ? null : size, ...where }, { trail });
  }

  function resize() {
    size = Number(sizes.value);
    try {
      localStorage.setItem(SIZE_NAME, size);
    } catch {
      /* then it is for now */
    }
    restart();
  }

  function turn(step) {
    if (step > 0) trail.push(next);
    else trail.pop();
    // How to get to the page before is not known: from the first, then.
    if (!trail.at(-1)) trail = [null];
    remember();
    load().then(() => table.scrollIntoView({ block: 'nearest' }));
  }

  async function load() {
    request?.abort();
    const mine = new AbortController();
    request = mine;
    table.setAttribute('aria-busy', 'true');
    try {
      const asked = AbortSignal.any([signal, mine.signal]);
      const list = REFERENCE.test(wanted.q)
        ? await only(wanted.q, asked)
        : await get(`/files${query({ ...wanted, cursor: trail.at(-1), limit: size })}`, asked);
      if (!list.files.length && trail.length > 1) {
        // The last file of this page is gone.
        trail.pop();
        if (!trail.at(-1)) trail = [null];
        remember();
        return await load();
      }
      draw(list);
    } catch (problem) {
      if (problem.name === 'AbortError') return;
      if (problem.status === 400 && trail.length > 1) {
        // A cursor of another list, or of an older node.
        restart();
        return;
      }
      table.hidden = true;
      pages.hidden = true;
      failure(state, problem, load);
    }
    table.removeAttribute('aria-busy');
  }

  /** The list of the one file of a CID, where the node knows it. */
  async function only(cid, asked) {
    say(count, 'Looking for it…');
    try {
      const file = await get(`/files/${cid}`, asked);
      return { files: [file], total: 1 };
    } catch (problem) {
      if (![404, 502, 504].includes(problem.status)) throw problem;
      return { files: [], total: 0 };
    }
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
    pages.hidden = trail.length === 1 && !next && files.length <= SIZES[0];
    back.disabled = trail.length === 1;
    on.disabled = !next;
    const known = total ?? files.length;
    say(count, known || wanted.q ? `${plural(known, 'file')}${wanted.q ? ` with “${visible(wanted.q)}”` : ''}` : '');
    say(pageNo, total ? `Page ${trail.length} of ${Math.max(1, Math.ceil(total / size))}` : `Page ${trail.length}`);
    if (files.length) fill(state);
    else if (REFERENCE.test(wanted.q))
      fill(
        state,
        empty(
          'That file is not known here, and nobody who was asked has it.',
          'A file of somebody else is opened by its link, with the key behind #.',
          link && session.may('write') && h('button', { type: 'button', on: { click: open } }, 'Open the link'),
          h('button', { type: 'button', on: { click: clear } }, 'Clear the search'),
        ),
      );
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

  const open = () => follow(link).catch(complain);

  function clear() {
    search.value = '';
    wanted.q = '';
    search.focus();
    restart();
  }

  function row(file) {
    const name = called(file.name);
    const word = (text) => h('span', { class: 'tag' }, text);
    return h(
      'tr',
      {},
      h(
        'th',
        { scope: 'row', class: 'name' },
        icon(file.kind === 'dir' ? 'folder' : 'files'),
        h('a', { href: `#/file/${file.cid}`, title: name }, name),
        ' ',
        !file.name?.trim() && h('span', { class: 'hint mono' }, short(file.cid)),
        !file.pinned && word('not kept'),
        !file.sealed && word('public'),
      ),
      h('td', { class: 'size' }, bytes(file.size)),
      h('td', { class: 'created' }, date(file.created)),
      h(
        'td',
        { class: 'act' },
        downloadLink(
          file,
          { class: 'button quiet', 'aria-label': `Download ${name}`, title: 'Download' },
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
