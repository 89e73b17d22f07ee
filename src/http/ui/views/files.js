// The list of files. The node searches, sorts and pages, so that the list is as fast with 100,000 files as with ten.

import { addFilesCard } from '../add-files.js';
import { get, getQuickly, query } from '../api.js';
import { storageName } from '../base.js';
import { fill, h, setText } from '../dom.js';
import { events } from '../events.js';
import { fileTable } from '../file-table.js';
import { escapeInvisible, number, plural } from '../format.js';
import { icon } from '../icons.js';
import { openLink, promptForLink } from '../open-link.js';
import { emptyState, loading, showProblem } from '../placeholders.js';
import { removeFile } from '../remove-file.js';
import * as router from '../router.js';
import { session } from '../session.js';
import { reportProblem } from '../toasts.js';

export const title = 'Files';

const PAGE_SIZES = [50, 200];
const PAGE_SIZE_KEY = storageName('storgo-page-size');
const TYPING_MS = 180;
/** Events that come together cause one reload. */
const SETTLE_MS = 400;
/** A CID or a link. The key of a link is not part of the match: it must not get into the address. */
const REFERENCE = /^(?:storgo:\/\/)?(b[a-z2-7]{30,})(?:#.*)?$/;

/** The number of files per page: from the address, or as last chosen. */
function initialPageSize(addressQuery) {
  let saved = null;
  try {
    saved = localStorage.getItem(PAGE_SIZE_KEY);
  } catch {
    /* no local storage: use the default */
  }
  const candidates = [Number(addressQuery.get('size')), Number(saved)];
  return candidates.find((size) => PAGE_SIZES.includes(size)) ?? PAGE_SIZES[0];
}

/**
 * The position in the list: `trail` holds the cursors of the pages up to this one (the first page has none). Only this
 * tab's history knows the cursors of earlier pages; `skipped` counts the pages before the first known one.
 */
function initialPosition(addressQuery) {
  const page = Math.max(1, Math.floor(Number(addressQuery.get('page'))) || 1);
  const cursor = addressQuery.get('cursor');
  if (page === 1 || !cursor) return { trail: [null], skipped: 0 };
  const state = router.historyState();
  if (state?.trail?.at(-1) === cursor) return { skipped: 0, ...state };
  return { trail: [cursor], skipped: Math.min(page, Number.MAX_SAFE_INTEGER) - 1 };
}

export function show({ body, head, query: addressQuery, signal }) {
  const filter = {
    q: addressQuery.get('q') ?? '',
    sort: addressQuery.get('sort') ?? 'created',
    order: addressQuery.get('order') ?? 'desc',
  };
  let pageSize = initialPageSize(addressQuery);
  let { trail, skipped } = initialPosition(addressQuery);
  let next = null;
  let request = null;
  const pageNumber = () => skipped + trail.length;

  const search = h('input', {
    type: 'search',
    id: 'search',
    value: filter.q,
    autocomplete: 'off',
    spellcheck: 'false',
    on: { input: onSearchInput },
  });
  const count = h('p', { class: 'hint', role: 'status' });
  const table = fileTable({ onSort: sortBy, onRemove: remove, fallback: search });
  const state = h('div', {}, loading());
  const previousButton = h('button', { type: 'button', on: { click: () => turnPage(-1) } }, 'Previous');
  const nextButton = h('button', { type: 'button', on: { click: () => turnPage(1) } }, 'Next');
  const pageText = h('span', { class: 'hint' });
  const sizes = h(
    'select',
    { id: 'page-size', on: { change: changePageSize } },
    PAGE_SIZES.map((size) => h('option', { value: size, selected: size === pageSize }, number(size))),
  );
  const perPage = h('span', { class: 'per-page' }, h('label', { for: 'page-size', class: 'hint' }, 'Files per page'), sizes);
  const pages = h('nav', { class: 'pages', 'aria-label': 'Pages' }, previousButton, pageText, nextButton, perPage);
  if (session.can('write')) {
    const open = h('button', { type: 'button', on: { click: promptForLink } }, icon('link'), 'Open link');
    head.append(h('div', { class: 'buttons' }, open));
  }
  fill(
    body,
    session.can('write') && addFilesCard(),
    h('div', { class: 'toolbar' }, h('label', { for: 'search' }, 'Search by name, CID or link'), search, count),
    state,
    table.element,
    pages,
  );

  let typingTimer = null;
  /** The link that was typed into the search, with its key. It is sent only if the user opens it. */
  let typedLink = null;
  function onSearchInput() {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => {
      const text = search.value.trim();
      const [, cid] = REFERENCE.exec(text) ?? [];
      if (cid) {
        typedLink = text.includes('#') ? text : null;
        search.value = cid;
      }
      filter.q = cid ?? text;
      reload();
    }, TYPING_MS);
  }

  function sortBy(column) {
    if (filter.sort === column) filter.order = filter.order === 'asc' ? 'desc' : 'asc';
    else filter.order = column === 'name' ? 'asc' : 'desc';
    filter.sort = column;
    reload();
  }

  /** Loads the first page. */
  function reload() {
    goToFirst();
    updateAddress();
    load();
  }

  function goToFirst() {
    trail = [null];
    skipped = 0;
  }

  /** To the previous page, or to the first if the cursor of the previous one is not known. */
  function goToPrevious() {
    trail.pop();
    if (!trail.length) goToFirst();
  }

  function updateAddress() {
    const position = pageNumber() > 1 ? { page: pageNumber(), cursor: trail.at(-1) } : {};
    const size = pageSize === PAGE_SIZES[0] ? null : pageSize;
    router.replaceQuery('files', { ...filter, size, ...position }, { trail, skipped });
  }

  function changePageSize() {
    pageSize = Number(sizes.value);
    try {
      localStorage.setItem(PAGE_SIZE_KEY, pageSize);
    } catch {
      /* no local storage: the size lasts until the view is left */
    }
    reload();
  }

  function turnPage(step) {
    if (step > 0) trail.push(next);
    else goToPrevious();
    updateAddress();
    load().then(() => table.element.scrollIntoView({ block: 'nearest' }));
  }

  async function load() {
    request?.abort();
    const abort = new AbortController();
    request = abort;
    table.element.setAttribute('aria-busy', 'true');
    try {
      const either = AbortSignal.any([signal, abort.signal]);
      const single = REFERENCE.test(filter.q) && pageNumber() === 1 ? await findByCid(filter.q, either) : null;
      // A text that looks like a CID may also be part of a name.
      const list =
        single ?? (await getQuickly(`/files${query({ ...filter, cursor: trail.at(-1), limit: pageSize })}`, either));
      if (!list.files.length && pageNumber() > 1) {
        // The last file of this page was deleted.
        goToPrevious();
        updateAddress();
        return await load();
      }
      draw(list);
    } catch (problem) {
      if (problem.name === 'AbortError') return;
      if (problem.status === 400 && pageNumber() > 1) {
        // The cursor belongs to another list or to another version of the node.
        reload();
        return;
      }
      table.element.hidden = true;
      pages.hidden = true;
      showProblem(state, problem, load);
    }
    table.element.removeAttribute('aria-busy');
  }

  /** The list with the one file of a CID; null if the node does not find it. */
  async function findByCid(cid, abort) {
    setText(count, 'Searching…');
    try {
      const file = await get(`/files/${cid}`, abort);
      return { files: [file], total: 1 };
    } catch (problem) {
      if (![400, 404, 422, 502, 504].includes(problem.status)) throw problem;
      return null;
    }
  }

  function draw({ files, next: nextCursor, total }) {
    next = nextCursor ?? null;
    table.draw(files, filter.sort, filter.order);
    table.element.hidden = !files.length;
    pages.hidden = pageNumber() === 1 && !next && files.length <= PAGE_SIZES[0];
    previousButton.disabled = pageNumber() === 1;
    nextButton.disabled = !next;
    const matches = total ?? files.length;
    const match = filter.q ? ` matching “${escapeInvisible(filter.q)}”` : '';
    setText(count, matches || filter.q ? plural(matches, 'file') + match : '');
    const last = total ? Math.max(1, Math.ceil(total / pageSize)) : null;
    // The page number comes from the address, which may name any.
    const current = last ? `${number(Math.min(pageNumber(), last))} of ${number(last)}` : number(pageNumber());
    setText(pageText, `Page ${current}`);
    fill(state, !files.length && noFiles());
  }

  function noFiles() {
    const clear = () => h('button', { type: 'button', on: { click: clearSearch } }, 'Clear search');
    const canOpen = session.can('write');
    if (REFERENCE.test(filter.q)) {
      const open = h('button', { type: 'button', on: { click: openTypedLink } }, 'Open link');
      const hint = canOpen && 'To open a file from another node, use its whole link, including the key after #.';
      return emptyState('File not found on this node or its peers', hint, canOpen && typedLink && open, clear());
    }
    if (filter.q) return emptyState('No file names match', 'The search covers names, not contents.', clear());
    return emptyState(
      'No files yet',
      canOpen
        ? 'Files that you store or open by a link appear here.'
        : 'Files that others store on this node appear here. You can only read.',
    );
  }

  const openTypedLink = () => openLink(typedLink).catch(reportProblem);

  function clearSearch() {
    search.value = '';
    filter.q = '';
    search.focus();
    reload();
  }

  async function remove(file) {
    try {
      if (!(await removeFile(file))) return;
      await load();
      table.focusAfterRemoval();
    } catch (problem) {
      reportProblem(problem);
    }
  }

  let settleTimer = null;
  events.addEventListener(
    'event',
    ({ detail }) => {
      if (!['stored', 'removed', 'skipped'].includes(detail.type)) return;
      settleTimer ??= setTimeout(() => {
        settleTimer = null;
        load();
      }, SETTLE_MS);
    },
    { signal },
  );
  signal.addEventListener('abort', () => {
    clearTimeout(settleTimer);
    clearTimeout(typingTimer);
    request?.abort();
  });
  load();
}
