// Signed out: how to get in.

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
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const button = h('button', { type: 'submit', class: 'main' }, 'Sign in');
  const say = () => {
    const why = session.refused;
    // What a program does about 401 is its hint; what a person does stands here.
    wrong.textContent = why ? [why.message, why.status !== 401 && why.hint].filter(Boolean).join(' ') : '';
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
      'From ',
      h('code', {}, 'api.token'),
      ' in the node’s data directory, or one that was made for you in the settings.',
    ),
    wrong,
    h('div', { class: 'buttons' }, button),
  );

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    const ok = await session.signIn(field.value.trim());
    button.disabled = false;
    if (ok || signal.aborted) return;
    say();
    field.select();
    field.focus();
  }

  const waiting = h('p', { class: 'state warn', role: 'status' });
  const tell = () => {
    const { parked } = uploads;
    waiting.hidden = !parked;
    waiting.textContent = `${plural(parked, 'upload')} ${parked === 1 ? 'waits' : 'wait'} in this tab. Leave it open: sign in as before, here or in another tab, and ${parked === 1 ? 'it goes' : 'they go'} on.`;
  };
  uploads.addEventListener('change', tell, { signal });
  fill(
    body,
    h(
      'div',
      { class: 'signin' },
      waiting,
      h('p', { class: 'lead' }, 'This is a storgo node. Its files are for those who have the key to the door.'),
      h(
        'section',
        { class: 'card' },
        h('h2', {}, 'With a link'),
        h('p', {}, 'On the machine where the node runs:'),
        h('pre', { class: 'mono', tabindex: '0' }, 'storgo-node web'),
        h('p', { class: 'hint' }, 'It prints a link that signs you in once, here in this browser.'),
      ),
      form,
    ),
  );
  say();
  tell();
  // The node was away when the page came: try again when it is back.
  connection.addEventListener('change', () => connection.online && session.begin(), { signal });
}
