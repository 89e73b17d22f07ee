// Dialogs. <dialog> keeps the focus inside, closes on Escape and hands the focus back.

import { connection } from './connection.js';
import { h } from './dom.js';
import { session } from './session.js';

let serial = 0;

/**
 * Shows a dialog and answers with the value of the button that closed it (null where it was dismissed).
 * `actions`: [{label, value, kind}]; `act(value)` may do the work before it closes: what it throws is shown inside.
 * `secret`: it shows what is shown once, and neither Escape nor a click beside it closes it. Dialogs are for who is signed
 * in, and end with the session.
 */
export function ask({ title, body, actions = [], act, secret = false }) {
  const { owner } = session;
  if (!owner) return Promise.resolve(null);
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
  let acting = false;
  /** Whether it stays open: what runs is not forgotten before it has answered, unless nobody is there to answer. */
  const held = () => acting && connection.online;
  const stays = () => secret || held();

  async function submit(event) {
    event.preventDefault();
    const value = event.submitter?.value ?? actions[0]?.value ?? null;
    acting = true;
    for (const button of buttons) button.disabled = true;
    wrong.textContent = '';
    try {
      answer = act ? ((await act(value, form)) ?? value) : value;
      dialog.close();
    } catch (problem) {
      wrong.textContent = [problem.message, problem.hint].filter(Boolean).join(' ');
    }
    acting = false;
    for (const button of buttons) button.disabled = false;
  }

  document.body.append(dialog);
  const leave = () => held() || dialog.close();
  // The dialog is the target of a click on its padding and of one beside it: the place tells which. Text that is marked
  // from inside to outside is no click.
  const beside = ({ target, clientX: x, clientY: y }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    return target === dialog && (x < left || x > right || y < top || y > bottom);
  };
  let pressed = false;
  dialog.addEventListener('mousedown', (event) => {
    pressed = event.button === 0 && beside(event);
  });
  dialog.addEventListener('mouseup', (event) => {
    if (pressed && beside(event) && !secret) leave();
    pressed = false;
  });
  dialog.addEventListener('cancel', (event) => stays() && event.preventDefault());
  const ends = new AbortController();
  const { signal } = ends;
  // A second Escape is no `cancel` that could be refused.
  addEventListener('keydown', (event) => event.key === 'Escape' && stays() && event.preventDefault(), { signal });
  // Another view, another talk.
  addEventListener('hashchange', leave, { signal });
  session.addEventListener('change', () => session.owner === owner || dialog.close(), { signal });
  connection.addEventListener(
    'change',
    () => {
      if (acting) buttons[0].disabled = held();
    },
    { signal },
  );
  dialog.showModal();
  return new Promise((done) =>
    dialog.addEventListener('close', () => {
      ends.abort();
      dialog.remove();
      done(answer);
    }),
  );
}
