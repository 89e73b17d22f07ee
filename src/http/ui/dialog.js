// Dialogs. <dialog> keeps the focus inside, closes on Escape and hands the focus back.

import { h } from './dom.js';

let serial = 0;

/**
 * Shows a dialog and answers with the value of the button that closed it (null where it was dismissed).
 * `actions`: [{label, value, kind}]; `act(value)` may do the work before it closes: what it throws is shown inside.
 */
export function ask({ title, body, actions = [], act }) {
  const id = `dialog-${(serial += 1)}`;
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const buttons = [
    h('button', { type: 'button', on: { click: () => dialog.close() } }, actions.length ? 'Cancel' : 'Close'),
  ];
  for (const { label, value, kind } of actions)
    buttons.push(h('button', { type: 'submit', value, class: kind ?? 'main' }, label));
  const form = h(
    'form',
    { method: 'dialog', on: { submit } },
    h('h2', { id }, title),
    body,
    wrong,
    h('div', { class: 'buttons' }, buttons),
  );
  const dialog = h('dialog', { 'aria-labelledby': id }, form);
  let answer = null;

  async function submit(event) {
    event.preventDefault();
    const value = event.submitter?.value ?? actions[0]?.value ?? null;
    for (const button of buttons) button.disabled = true;
    wrong.textContent = '';
    try {
      answer = act ? ((await act(value, form)) ?? value) : value;
      dialog.close();
    } catch (problem) {
      wrong.textContent = [problem.message, problem.hint].filter(Boolean).join(' ');
    }
    for (const button of buttons) button.disabled = false;
  }

  document.body.append(dialog);
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  // Another view, another talk.
  const leave = () => dialog.close();
  addEventListener('hashchange', leave);
  dialog.showModal();
  return new Promise((done) =>
    dialog.addEventListener('close', () => {
      removeEventListener('hashchange', leave);
      dialog.remove();
      done(answer);
    }),
  );
}
