// Which view is shown: `#/files?q=photo` → the view `files` with its query. Each view gets a signal that ends with it.

import { fill, h } from './dom.js';

let leave = new AbortController();
let shown = null;

/** The address as {view, id, query}. */
export function parse(hash = location.hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view = '', id = ''] = path.split('/');
  let name = id;
  try {
    name = decodeURIComponent(id);
  } catch {
    /* not ours: it will not be found */
  }
  return { view: view || 'overview', id: name, query: new URLSearchParams(search) };
}

/** Writes a view's query into the address without another step in the history; `state` comes back with it. */
export function remember(view, values, state = null) {
  const set = Object.entries(values).filter(([, value]) => value);
  history.replaceState(state, '', `#/${view}${set.length ? `?${new URLSearchParams(set)}` : ''}`);
}

/** What was remembered with this address. */
export const remembered = () => history.state;

/** Shows `view` in `main`. The heading takes the focus when the user went there, so that it is read out. */
export function show(main, view, place, moveFocus) {
  leave.abort();
  leave = new AbortController();
  const heading = h('h1', { tabindex: '-1' }, view.title);
  const body = h('div', { class: 'view' });
  fill(main, h('div', { class: 'head' }, heading), body);
  document.title = `${view.title} · storgo`;
  shown = view;
  view.show({
    ...place,
    body,
    heading,
    signal: leave.signal,
    head: heading.parentElement,
    retitle: (text) => {
      heading.textContent = text;
      document.title = `${text} · storgo`;
    },
  });
  if (moveFocus) {
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

export const current = () => shown;
