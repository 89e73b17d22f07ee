// What is in force and where it came from; who may call; this session.

import { getSoon } from '../api.js';
import { fill, h } from '../dom.js';
import { date } from '../format.js';
import { complain, failure, loading } from '../notes.js';
import { session } from '../session.js';
import { tokens } from '../tokens.js';

export const title = 'Settings';

const MEANING = {
  read: 'look and download',
  write: 'look, download, store, delete, hand on links',
  admin: 'everything, tokens and settings included',
};

export function show({ body, signal }) {
  const table = h('div', {}, loading());
  const section = h(
    'section',
    { class: 'card' },
    h('h2', {}, 'In force'),
    h(
      'p',
      { class: 'hint' },
      'Settings come, in rising order, from what is built in, the profile, the file, the environment and flags. Change them there and start the node anew.',
    ),
    table,
  );
  fill(
    body,
    own(),
    session.may('admin')
      ? [tokens(signal), section]
      : h('p', { class: 'hint' }, 'Settings and tokens are shown to who is signed in as admin.'),
  );
  if (session.may('admin')) load();

  async function load() {
    try {
      const all = await getSoon('/settings', signal);
      fill(
        table,
        h(
          'table',
          { class: 'settings' },
          h('caption', { class: 'unseen' }, 'Settings in force'),
          h(
            'thead',
            {},
            h(
              'tr',
              {},
              ['Setting', 'Value', 'Comes from'].map((label) => h('th', { scope: 'col' }, label)),
            ),
          ),
          h(
            'tbody',
            {},
            all.map(({ key, value, origin }) =>
              h(
                'tr',
                { class: origin === 'built-in' ? null : 'changed' },
                h('th', { scope: 'row', class: 'mono' }, key),
                h('td', { class: 'mono break' }, text(value)),
                h('td', { 'data-label': 'from' }, origin),
              ),
            ),
          ),
        ),
      );
    } catch (problem) {
      failure(table, problem, load);
    }
  }
}

const text = (value) =>
  value === null || value === undefined || value === ''
    ? 'not set'
    : typeof value === 'string'
      ? value
      : JSON.stringify(value);

function own() {
  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'This session'),
    h(
      'p',
      {},
      'You are signed in as ',
      h('strong', {}, session.scope),
      `: ${MEANING[session.scope]}.`,
      session.expires ? ` Until ${date(session.expires)}.` : '',
    ),
    h(
      'div',
      { class: 'buttons' },
      h('button', { type: 'button', on: { click: () => session.signOut().catch(complain) } }, 'Sign out'),
      h('a', { class: 'button', href: '/api/docs', target: '_blank', rel: 'noopener' }, 'API documentation'),
    ),
  );
}
