// The list of files: search, sort and pages, all done by the node, so that it is as quick with 100,000 as with ten.

import { adding } from '../adding.js';
import { get, getSoon, query } from '../api.js';
import { downloadLink } from '../downloading.js';
import { fill, h, keyed, say } from '../dom.js';
import { events } from '../events.js';
import { bytes, called, date, number, plural, short, visible } from '../format.js';
import { icon } from '../icons.js';
import { complain, empty, failure, loading } from '../notes.js';
import { follow, openLink } from '../opening.js';
import { removal, removeFile } from '../removing.js';
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
  // The cursors of the pages up to this one; the first has none. Only this tab's history knows those before it: without
  // it, so many pages are skipped.
  const page = Math.max(1, Math.floor(Number(at.get('page'))) || 1);
  let trail = [null];
  let skipped = 0;
  if (page > 1 && at.get('cursor')) {
    const before = router.remembered();
    if (before?.trail?.at(-1) === at.get('cursor')) ({ trail, skipped = 0 } = before);
    else {
      trail = [at.get('cursor')];
      skipped = Math.min(page, Number.MAX_SAFE_INTEGER) - 1;
    }
  }
  const pageNo = () => skipped + trail.length;
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
  const pageWords = h('span', { class: 'hint' });
  const sizes = h(
    'select',
    { id: 'page-size', on: { change: resize } },
    SIZES.map((count) => h('option', { value: count, selected: count === size }, number(count))),
  );
  const perPage = h('span', { class: 'per-page' }, h('label', { for: 'page-size', class: 'hint' }, 'Per page'), sizes);
  const pages = h('nav', { class: 'pages', 'aria-label': 'Pages' }, back, pageWords, on, perPage);
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
    toFirst();
    remember();
    load();
  }

  function toFirst() {
    trail = [null];
    skipped = 0;
  }

  /** To the page before; where it is not known how to get there, to the first. */
  function toBefore() {
    trail.pop();
    if (!trail.length) toFirst();
  }

  function remember() {
    const where = pageNo() > 1 ? { page: pageNo(), cursor: trail.at(-1) } : {};
    router.remember('files', { ...wanted, size: size === SIZES[0] ? null : size, ...where }, { trail, skipped });
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
    else toBefore();
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
      const one = REFERENCE.test(wanted.q) && pageNo() === 1 ? await only(wanted.q, asked) : null;
      // What looks like a CID may be in a name.
      const list =
        one ?? (await getSoon(`/files${query({ ...wanted, cursor: trail.at(-1), limit: size })}`, asked));
      if (!list.files.length && pageNo() > 1) {
        // The last file of this page is gone.
        toBefore();
        remember();
        return await load();
      }
      draw(list);
    } catch (problem) {
      if (problem.name === 'AbortError') return;
      if (problem.status === 400 && pageNo() > 1) {
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

  /** The list of the one file of a CID, where the node knows it; else null. */
  async function only(cid, asked) {
    say(count, 'Looking for it…');
    try {
      const file = await get(`/files/${cid}`, asked);
      return { files: [file], total: 1 };
    } catch (problem) {
      if (![400, 404, 422, 502, 504].includes(problem.status)) throw problem;
      return null;
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
    drawRows(files);
    table.hidden = !files.length;
    pages.hidden = pageNo() === 1 && !next && files.length <= SIZES[0];
    back.disabled = pageNo() === 1;
    on.disabled = !next;
    const known = total ?? files.length;
    say(count, known || wanted.q ? `${plural(known, 'file')}${wanted.q ? ` with “${visible(wanted.q)}”` : ''}` : '');
    const all = total ? Math.max(1, Math.ceil(total / size)) : null;
    // An address may say any page.
    say(pageWords, all ? `Page ${number(Math.min(pageNo(), all))} of ${number(all)}` : `Page ${number(pageNo())}`);
    if (files.length) fill(state);
    else if (REFERENCE.test(wanted.q))
      fill(
        state,
        empty(
          'That file is not known here, and nobody who was asked has it.',
          session.may('write') && 'A file of somebody else is opened by its link, with the key behind #.',
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
    else
      fill(
        state,
        empty(
          'No files yet.',
          session.may('write')
            ? 'What you store or open by a link appears here.'
            : 'What others store on this node appears here. You are signed in to read.',
        ),
      );
  }

  /** Brings the rows in line with what is there; what has the focus keeps it, or hands it on where its file is gone. */
  function drawRows(files) {
    const tools = (element) => [...element.querySelectorAll('a, button')];
    const held = document.activeElement;
    const at = [...rows.children].findIndex((element) => element.contains(held));
    const holder = rows.children[at];
    const tool = holder && tools(holder).indexOf(held);
    keyed(
      rows,
      files,
      ({ cid }) => cid,
      () => h('tr'),
      (element, file) => {
        const told = JSON.stringify(file);
        if (element.told !== told) fill(element, row(file));
        element.told = told;
      },
    );
    if (!holder || document.activeElement === held) return;
    const heir = rows.children[Math.min(at, rows.children.length - 1)];
    const next = holder.isConnected ? tools(holder)[tool] : heir?.querySelector('a');
    (next ?? search).focus();
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
    return [
      h(
        'th',
        { scope: 'row', class: 'name' },
        icon(file.kind === 'dir' ? 'folder' : 'files'),
        h('a', { href: `#/file/${file.cid}`, title: name }, name),
        ' ',
        !file.name?.trim() && h('span', { class: 'hint mono' }, short(file.cid)),
        !file.pinned && word('opened, not kept'),
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
              'aria-label': file.pinned ? `Delete ${name}` : `Take ${name} off the list`,
              title: removal(file),
              on: { click: () => drop(file) },
            },
            icon(file.pinned ? 'bin' : 'cross'),
          ),
      ),
    ];
  }

  async function drop(file) {
    try {
      if (await removeFile(file)) {
        await load();
        // The next row has taken the focus, where there is one: it is deleted as quickly.
        const row = document.activeElement?.closest('tbody tr');
        if (row) [...row.querySelectorAll('a, button')].at(-1).focus();
        else if (document.activeElement === document.body) search.focus();
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
      if (!['stored', 'removed', 'skipped'].includes(detail.type)) return;
      soon ??= setTimeout(() => {
        soon = null;
        load();
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
