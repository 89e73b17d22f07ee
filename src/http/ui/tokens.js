// Tokens for programs and people: made, listed, revoked.

import { getSoon, post, remove } from './api.js';
import { copyField } from './copy.js';
import { ask } from './dialog.js';
import { fill, h } from './dom.js';
import { date, visible } from './format.js';
import { icon } from './icons.js';
import { failure, loading, note } from './notes.js';

const LIFETIMES = [
  ['3600', 'an hour'],
  ['86400', 'a day'],
  ['2592000', '30 days'],
  ['31536000', 'a year'],
  ['', 'until it is revoked'],
];
const SCOPES = [
  ['read', 'read: look and download'],
  ['write', 'write: also store, delete, hand on links'],
  ['admin', 'admin: everything'],
];

/** The card with the list. */
export function tokens(signal) {
  const place = h('div', {}, loading());
  const make = h(
    'button',
    { type: 'button', on: { click: () => create().then((done) => done && load()) } },
    icon('plus'),
    'New token',
  );
  load();

  async function load() {
    try {
      const list = await getSoon('/tokens', signal);
      fill(
        place,
        list.length
          ? table(list)
          : h('p', { class: 'hint' }, 'None were made. The node’s own is in api.token, in its data directory.'),
      );
    } catch (problem) {
      failure(place, problem, load);
    }
  }

  function table(list) {
    return h(
      'table',
      { class: 'tokens' },
      h('caption', { class: 'unseen' }, 'Tokens'),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          ['Name', 'Scope', 'Made', 'Ends', 'Last used'].map((label) => h('th', { scope: 'col' }, label)),
          h('th', { scope: 'col' }, h('span', { class: 'unseen' }, 'Actions')),
        ),
      ),
      h(
        'tbody',
        {},
        list.map((token) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row', class: 'name' }, visible(token.name)),
            h('td', { 'data-label': 'Scope' }, token.scope),
            h('td', { 'data-label': 'Made' }, date(token.created_unix_s)),
            h('td', { 'data-label': 'Ends' }, ends(token)),
            h('td', { 'data-label': 'Last used' }, token.last_used_unix_s ? date(token.last_used_unix_s) : 'never'),
            h(
              'td',
              { class: 'act' },
              h(
                'button',
                { type: 'button', 'aria-label': `Revoke ${visible(token.name)}`, on: { click: () => revoke(token) } },
                'Revoke',
              ),
            ),
          ),
        ),
      ),
    );
  }

  const ends = ({ expires_unix_s: expires }) => {
    if (!expires) return 'when revoked';
    return expires * 1000 > Date.now() ? date(expires) : [h('span', { class: 'tag' }, 'ended'), ' ', date(expires)];
  };

  async function revoke(token) {
    const done = await ask({
      title: `Revoke ${visible(token.name)}?`,
      body: h('p', {}, 'Whoever uses it is refused from now on. It cannot be given back; make a new one instead.'),
      actions: [{ label: 'Revoke', value: 'revoke', kind: 'danger' }],
      act: () => remove(`/tokens/${encodeURIComponent(token.id)}`),
    });
    if (!done) return;
    note(`${visible(token.name)} is revoked.`);
    await load();
    make.focus();
  }

  return h('section', { class: 'card' }, h('div', { class: 'head' }, h('h2', {}, 'Tokens'), make), place);
}

async function create() {
  const name = h('input', { type: 'text', id: 'token-name', required: true, maxlength: '100', autocomplete: 'off' });
  const option = ([value, label]) => h('option', { value }, label);
  const scope = h('select', { id: 'token-scope' }, SCOPES.map(option));
  const ttl = h('select', { id: 'token-ttl' }, LIFETIMES.map(option));
  ttl.value = '2592000';
  const made = await ask({
    title: 'New token',
    body: [
      h('label', { for: 'token-name' }, 'Name, to know it by'),
      name,
      h('label', { for: 'token-scope' }, 'It may'),
      scope,
      h('label', { for: 'token-ttl' }, 'It is good for'),
      ttl,
    ],
    actions: [{ label: 'Make token', value: 'make' }],
    act: () =>
      post('/tokens', { name: name.value.trim(), scope: scope.value, ttl_s: ttl.value ? Number(ttl.value) : null }),
  });
  if (!made) return false;
  await ask({
    title: `The token ${visible(made.name)}`,
    body: [h('p', {}, 'Copy it now: it is shown this once.'), copyField('token', made.token)],
    secret: true,
  });
  return true;
}
