// Modal dialogs. <dialog> keeps the focus inside, closes on Escape, and returns the focus afterwards.

import { connection } from './connection.js';
import { h } from './dom.js';
import { session } from './session.js';

let lastId = 0;

/**
 * Opens a dialog. Resolves to the value of the button that closed it, or to what `run` returned; null if the user
 * dismissed it.
 * - `actions`: buttons, [{label, value, kind}]; `dismiss`: label of the button that only closes the dialog.
 * - `run(value)`: work to do before the dialog closes. The dialog shows the error if it throws, and stays open.
 * - `secret`: the dialog shows something that is never shown again; Escape and clicks outside do not close it.
 * A dialog opens only when somebody is signed in, and closes when the session ends.
 */
export function openDialog({ title, body, actions = [], run, secret = false, dismiss = actions.length ? 'Cancel' : 'Close' }) {
  const { owner } = session;
  if (!owner) return Promise.resolve(null);
  const id = `dialog-${(lastId += 1)}`;
  const error = h('p', { class: 'error', role: 'alert' });
  const buttons = [h('button', { type: 'button', on: { click: () => dialog.close() } }, dismiss)];
  for (const { label, value, kind } of actions)
    buttons.push(h('button', { type: 'submit', value, class: kind ?? 'main' }, label));
  const form = h(
    'form',
    { method: 'dialog', on: { submit } },
    h('h2', { id }, title),
    body,
    error,
    h('div', { class: 'buttons' }, buttons),
  );
  const dialog = h('dialog', { 'aria-labelledby': id }, form);
  let result = null;
  let running = false;
  /** Work that runs must finish first, unless the node is offline and will not answer. */
  const isBusy = () => running && connection.online;
  const isLocked = () => secret || isBusy();

  async function submit(event) {
    event.preventDefault();
    const value = event.submitter?.value ?? actions[0]?.value ?? null;
    running = true;
    for (const button of buttons) button.disabled = true;
    error.textContent = '';
    try {
      result = run ? ((await run(value, form)) ?? value) : value;
      dialog.close();
    } catch (problem) {
      error.textContent = [problem.message, problem.hint].filter(Boolean).join(' ');
    }
    running = false;
    for (const button of buttons) button.disabled = false;
  }

  document.body.append(dialog);
  const closeUnlessBusy = () => isBusy() || dialog.close();
  // A click on the dialog's padding and one on the backdrop both have the dialog as target; the position tells them
  // apart. Selecting text and releasing the button outside is not a click on the backdrop.
  const onBackdrop = ({ target, clientX: x, clientY: y }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    return target === dialog && (x < left || x > right || y < top || y > bottom);
  };
  let pressed = false;
  dialog.addEventListener('mousedown', (event) => {
    pressed = event.button === 0 && onBackdrop(event);
  });
  dialog.addEventListener('mouseup', (event) => {
    if (pressed && onBackdrop(event) && !secret) closeUnlessBusy();
    pressed = false;
  });
  dialog.addEventListener('cancel', (event) => isLocked() && event.preventDefault());
  const closed = new AbortController();
  const { signal } = closed;
  // Browsers do not let a page refuse the `cancel` of a second Escape; they do let it refuse the key.
  addEventListener('keydown', (event) => event.key === 'Escape' && isLocked() && event.preventDefault(), { signal });
  addEventListener('hashchange', closeUnlessBusy, { signal });
  session.addEventListener('change', () => session.owner === owner || dialog.close(), { signal });
  connection.addEventListener(
    'change',
    () => {
      if (running) buttons[0].disabled = isBusy();
    },
    { signal },
  );
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener('close', () => {
      closed.abort();
      dialog.remove();
      resolve(result);
    }),
  );
}
