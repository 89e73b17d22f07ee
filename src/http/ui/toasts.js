// Toasts: short messages that disappear after a while and are read out by screen readers.

import { activityLog } from './activity-log.js';
import { h } from './dom.js';
import { icon } from './icons.js';
import { session } from './session.js';

const SHOWN_MS = 8000;
const MAX_SHOWN = 3;
/** A toast younger than this survives a change of view: it may report what led there. */
const FRESH_MS = 1000;
/** Toasts of work in progress. They stay until the work ends. */
const busy = new WeakSet();

addEventListener('hashchange', () => {
  for (const toast of document.querySelectorAll('.toast'))
    if (!busy.has(toast) && performance.now() - toast.shownAt > FRESH_MS) toast.remove();
});

// Messages to one user are not for the next. A session that expired still belongs to its owner.
let owner = null;
session.addEventListener('change', () => {
  const now = session.owner ?? session.expiredOwner;
  if (now === owner) return;
  owner = now;
  announce('');
  document.getElementById('toasts').replaceChildren();
});

/** Shows a toast for work in progress. Returns a function that removes it. */
export function showBusyToast(text) {
  const toast = append(text, 'ok', '', 'activity');
  busy.add(toast);
  return () => toast.remove();
}

/** Shows a toast. `tone`: `ok` or `bad`. */
export function showToast(text, tone = 'ok', hint = '') {
  const toast = append(text, tone, hint, tone === 'ok' ? 'check' : 'warning');
  // A toast with the focus or the pointer on it is being read.
  const expire = () => (toast.matches(':hover, :focus-within') ? setTimeout(expire, 2000) : toast.remove());
  setTimeout(expire, tone === 'ok' ? SHOWN_MS : SHOWN_MS * 2);
}

function append(text, tone, hint, iconName) {
  const close = h(
    'button',
    { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', title: 'Dismiss', on: { click: () => toast.remove() } },
    icon('cross'),
  );
  const toast = h(
    'div',
    { class: `toast ${tone}` },
    icon(iconName),
    h('p', {}, text, hint && h('span', { class: 'hint' }, hint)),
    close,
  );
  const container = document.getElementById('toasts');
  container.append(toast);
  while (container.children.length > MAX_SHOWN) container.firstElementChild.remove();
  toast.shownAt = performance.now();
  return toast;
}

/** Shows a problem as a toast and records it in the activity log. `prefix` says what failed. */
export function reportProblem(problem, prefix = '') {
  if (problem.name === 'AbortError' || problem.status === 401) return;
  activityLog.add({ type: 'failed', text: prefix + problem.message, hint: problem.hint });
  // The banner already says that the node is offline.
  if (problem.code !== 'offline') showToast(prefix + problem.message, 'bad', problem.hint);
}

/** Tells screen readers only. */
export function announce(text) {
  document.getElementById('announcer').textContent = text;
}
