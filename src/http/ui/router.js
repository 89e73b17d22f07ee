// Shows the view that the address names: `#/files?q=photo` is the view `files` with a query. Each view gets an abort
// signal that ends with it.

import { fill, h } from './dom.js';

let currentView = new AbortController();

/** Parses an address into {view, id, query}. */
export function parse(hash = location.hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view = '', segment = ''] = path.split('/');
  let id = segment;
  try {
    id = decodeURIComponent(segment);
  } catch {
    /* not percent-encoded: no file has this id */
  }
  return { view: view || 'overview', id, query: new URLSearchParams(search) };
}

/** Writes a view's query into the address without a new history entry. `state` is kept with that entry. */
export function replaceQuery(view, values, state = null) {
  const set = Object.entries(values).filter(([, value]) => value);
  history.replaceState(state, '', `#/${view}${set.length ? `?${new URLSearchParams(set)}` : ''}`);
}

/** The state that `replaceQuery` kept with this history entry. */
export const historyState = () => history.state;

/** Shows `view` in `main`. With `moveFocus`, the heading takes the focus, so that screen readers read it. */
export function show(main, view, location, moveFocus) {
  currentView.abort();
  currentView = new AbortController();
  const heading = h('h1', { tabindex: '-1' }, view.title);
  const body = h('div', { class: 'view' });
  fill(main, h('div', { class: 'head' }, heading), body);
  document.title = `${view.title} · storgo`;
  view.show({
    ...location,
    body,
    heading,
    signal: currentView.signal,
    head: heading.parentElement,
    setTitle: (text) => {
      heading.textContent = text;
      document.title = `${text} · storgo`;
    },
  });
  if (moveFocus) {
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}
