// Shows the view that the address names: `#/files?q=photo` is the view `files` with a query, `#/file/CID/a/b` the entry
// `a/b` of a folder. Each view gets an abort signal that ends with it.

import { fill, h } from './dom.js';

let currentView = new AbortController();

/** Decodes a part of an address. What is not percent-encoded stays as it is: no file has that name. */
function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Parses an address into {view, id, path, query}. */
export function parse(hash = location.hash) {
  const [names, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, id = '', ...path] = names.split('/').map(decode);
  return { view: view || 'overview', id, path: path.filter(Boolean), query: new URLSearchParams(search) };
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
