// Short words to the user: seen for a while, and read out by a screen reader.

import { connection } from './connection.js';
import { h, fill } from './dom.js';
import { icon } from './icons.js';
import { history } from './history.js';
import { session } from './session.js';

const SHOWN_MS = 8000;
/** What is younger may be about what led to another view. */
const FRESH_MS = 1000;
/** Toasts of what still runs: they end with it. */
const running = new WeakSet();

addEventListener('hashchange', () => {
  for (const toast of document.querySelectorAll('.toast'))
    if (!running.has(toast) && performance.now() - toast.since > FRESH_MS) toast.remove();
});

// What was said to one is not for the next. A session that ended by itself is still its owner's.
let owner = null;
session.addEventListener('change', () => {
  const now = session.owner ?? session.waiting;
  if (now === owner) return;
  owner = now;
  speak('');
  document.getElementById('toasts').replaceChildren();
});

/** A toast of something that takes a while: it stays until the function that this answers is called. */
export function busy(text) {
  const toast = put(text, 'ok', '', 'activity');
  running.add(toast);
  return () => toast.remove();
}

/** A toast. `tone`: `ok` or `bad`. */
export function note(text, tone = 'ok', hint = '') {
  const toast = put(text, tone, hint, tone === 'ok' ? 'check' : 'warning');
  // What has the focus or the pointer is being read.
  const end = () => (toast.matches(':hover, :focus-within') ? setTimeout(end, 2000) : toast.remove());
  setTimeout(end, tone === 'ok' ? SHOWN_MS : SHOWN_MS * 2);
}

function put(text, tone, hint, sign) {
  const close = h(
    'button',
    { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', on: { click: () => toast.remove() } },
    icon('cross'),
  );
  const toast = h(
    'div',
    { class: `toast ${tone}` },
    icon(sign),
    h('p', {}, text, hint && h('span', { class: 'hint' }, hint)),
    close,
  );
  const place = document.getElementById('toasts');
  place.append(toast);
  while (place.children.length > 3) place.firstElementChild.remove();
  toast.since = performance.now();
  return toast;
}

/** A failure as a toast; it stays in the activity. `what` did not work goes before it. */
export function complain(problem, what = '') {
  if (problem.name === 'AbortError' || problem.status === 401) return;
  history.add({ type: 'failed', text: what + problem.message, hint: problem.hint });
  // The banner says it already.
  if (problem.code !== 'offline') note(what + problem.message, 'bad', problem.hint);
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
  h('div', { class: 'state' }, h('p', {}, h('strong', {}, title), text && h('span', { class: 'hint' }, text)), ...actions);
