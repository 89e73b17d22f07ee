// The sign-in view.

import { connection } from '../connection.js';
import { fill, h } from '../dom.js';
import { plural } from '../format.js';
import { session } from '../session.js';
import { uploads } from '../uploads.js';

export const title = 'Sign in';

export function show({ body, signal }) {
  const field = h('input', {
    type: 'password',
    id: 'token',
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    'aria-describedby': 'token-hint',
  });
  const error = h('p', { class: 'error', role: 'alert' });
  const button = h('button', { type: 'submit', class: 'main' }, 'Sign in');
  const drawError = () => {
    const { problem } = session;
    error.textContent = problem ? [problem.message, problem.hint].filter(Boolean).join(' ') : '';
  };
  const form = h(
    'form',
    { class: 'card', on: { submit } },
    h('h2', {}, 'With a token'),
    h('label', { for: 'token' }, 'Token'),
    field,
    h(
      'p',
      { class: 'hint', id: 'token-hint' },
      'A token that was created under “Settings”, or the content of ',
      h('code', {}, 'api.token'),
      ' in the node’s data directory.',
    ),
    error,
    h('div', { class: 'buttons' }, button),
  );

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    const ok = await session.signIn(field.value.trim());
    button.disabled = false;
    if (ok || signal.aborted) return;
    drawError();
    field.select();
    field.focus();
  }

  const waiting = h('p', { class: 'state warn', role: 'status' });
  const drawWaiting = () => {
    const count = uploads.suspended;
    waiting.hidden = !count;
    waiting.textContent = `${plural(count, 'upload')} ${count === 1 ? 'is' : 'are'} waiting in this tab. Keep the tab open and sign in as the same user to resume.`;
  };
  uploads.addEventListener('change', drawWaiting, { signal });
  fill(
    body,
    h(
      'div',
      { class: 'signin' },
      waiting,
      h('p', { class: 'lead' }, 'Sign in to use this storgo node.'),
      h(
        'section',
        { class: 'card' },
        h('h2', {}, 'With a link'),
        h('p', {}, 'On the machine where the node runs:'),
        h('pre', { class: 'mono', tabindex: '0' }, 'storgo-node web'),
        h('p', { class: 'hint' }, 'Open the link that it prints in this browser. The link works once.'),
      ),
      form,
    ),
  );
  drawError();
  drawWaiting();
  // If the node was offline, try again when it is back.
  connection.addEventListener('change', () => connection.online && session.start(), { signal });
}
