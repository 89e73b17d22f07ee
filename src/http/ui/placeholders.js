// Placeholders for the content of a view: loading, empty, or failed.

import { connection } from './connection.js';
import { fill, h } from './dom.js';
import { icon } from './icons.js';

export const loading = (text = 'Loading…') => h('p', { class: 'loading' }, text);

/** An empty state: what is empty, and what the user can do. */
export const emptyState = (title, text, ...actions) =>
  h('div', { class: 'state' }, h('p', {}, h('strong', {}, title), text && h('span', { class: 'hint' }, text)), ...actions);

/** Shows a problem inside `element`, with a button that calls `retry`; retries by itself when the node is back online. */
export function showProblem(element, problem, retry) {
  if (problem.name === 'AbortError') return;
  if (retry && problem.code === 'offline') {
    const retryOnline = () => connection.online && element.isConnected && retry();
    connection.addEventListener('change', retryOnline, { once: true });
  }
  fill(
    element,
    h(
      'div',
      { class: 'state bad', role: 'alert' },
      icon('warning'),
      h('p', {}, h('strong', {}, problem.message), problem.hint && h('span', { class: 'hint' }, problem.hint)),
      retry && h('button', { type: 'button', on: { click: retry } }, 'Try again'),
    ),
  );
}
