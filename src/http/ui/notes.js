// Short words to the user: seen for a while, and read out by a screen reader.

import { connection } from './connection.js';
import { h, fill } from './dom.js';
import { icon } from './icons.js';
import { history } from './history.js';

const SHOWN_MS = 8000;

/** A toast. `tone`: `ok` or `bad`. */
export function note(text, tone = 'ok', hint = '') {
  const close = h(
    'button',
    { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', on: { click: () => toast.remove() } },
    icon('cross'),
  );
  const toast = h(
    'div',
    { class: `toast ${tone}` },
    icon(tone === 'ok' ? 'check' : 'warning'),
    h('p', {}, text, hint && h('span', { class: 'hint' }, hint)),
    close,
  );
  const place = document.getElementById('toasts');
  place.append(toast);
  while (place.children.length > 3) place.firstElementChild.remove();
  // What has the focus or the pointer is being read.
  const end = () => (toast.matches(':hover, :focus-within') ? setTimeout(end, 2000) : toast.remove());
  setTimeout(end, tone === 'ok' ? SHOWN_MS : SHOWN_MS * 2);
}

/** A failure as a toast; it stays in the activity. */
export function complain(problem) {
  if (problem.name === 'AbortError' || problem.status === 401) return;
  history.add({ type: 'failed', text: problem.message, hint: problem.hint });
  // The banner says it already.
  if (problem.code !== 'offline') note(problem.message, 'bad', problem.hint);
}

/** For a screen reader alone. */
export function speak(text) {
  document.getElementById('spoken').textContent = text;
}

/** A failure in the place of what could not be loaded, with a way to try again; by itself when the node is back. */
export function failure(element, problem, again) {
  if (problem.name === 'AbortError') return;
  if (again && problem.code === 'offline') {
    const back = () => connection.online && element.isConnected && again();
    connection.addEventListener('change', back, { once: true });
  }
  fill(
    element,
    h(
      'div',
      { class: 'state bad', role: 'alert' },
      icon('warning'),
      h('p', {}, h('strong', {}, problem.message), problem.hint && h('span', { class: 'hint' }, problem.hint)),
      again && h('button', { type: 'button', on: { click: again } }, 'Try again'),
    ),
  );
}

/** Says that something is being loaded. */
export const loading = (what = 'Loading…') => h('p', { class: 'loading' }, what);

/** Nothing there, and what to do about it. */
export const empty = (title, text, ...actions) =>
  h('div', { class: 'state' }, h('p', {}, h('strong', {}, title), h('span', { class: 'hint' }, text)), ...actions);
