// API tokens: list, create, revoke.

import { getQuickly, post, remove } from './api.js';
import { openDialog } from './dialog.js';
import { fill, h } from './dom.js';
import { date, escapeInvisible } from './format.js';
import { icon } from './icons.js';
import { loading, showProblem } from './placeholders.js';
import { copyField } from './share.js';
import { showToast } from './toasts.js';

const LIFETIMES = [
  ['3600', '1 hour'],
  ['86400', '1 day'],
  ['2592000', '30 days'],
  ['31536000', '1 year'],
  ['', 'Until revoked'],
];
const SCOPES = [
  ['read', 'Read: view and download files'],
  ['write', 'Write: also store, delete and share files'],
  ['admin', 'Admin: everything'],
];

/** The card with the list of tokens. */
export function tokensCard(signal) {
  const container = h('div', {}, loading());
  const newToken = h(
    'button',
    { type: 'button', on: { click: () => createToken().then((created) => created && load()) } },
    icon('plus'),
    'New token',
  );
  load();

  async function load() {
    try {
      const list = await getQuickly('/tokens', signal);
      fill(
        container,
        list.length
          ? tokenTable(list)
          : h('p', { class: 'hint' }, 'No tokens yet. The node’s own token is in the file api.token in its data directory.'),
      );
    } catch (problem) {
      showProblem(container, problem, load);
    }
  }

  function tokenTable(list) {
    return h(
      'table',
      { class: 'tokens' },
      h('caption', { class: 'visually-hidden' }, 'Tokens'),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          ['Name', 'Scope', 'Created', 'Expires', 'Last used'].map((label) => h('th', { scope: 'col' }, label)),
          h('th', { scope: 'col' }, h('span', { class: 'visually-hidden' }, 'Actions')),
        ),
      ),
      h('tbody', {}, list.map(tokenRow)),
    );
  }

  function tokenRow(token) {
    const name = escapeInvisible(token.name);
    return h(
      'tr',
      {},
      h('th', { scope: 'row', class: 'name' }, name),
      h('td', { 'data-label': 'Scope' }, token.scope),
      h('td', { 'data-label': 'Created' }, date(token.created_unix_s)),
      h('td', { 'data-label': 'Expires' }, expiry(token)),
      h('td', { 'data-label': 'Last used' }, token.last_used_unix_s ? date(token.last_used_unix_s) : 'Never'),
      h(
        'td',
        { class: 'act' },
        h('button', { type: 'button', 'aria-label': `Revoke ${name}`, on: { click: () => revoke(token) } }, 'Revoke'),
      ),
    );
  }

  const expiry = ({ expires_unix_s: expires }) => {
    if (!expires) return 'Never';
    return expires * 1000 > Date.now() ? date(expires) : [date(expires), h('span', { class: 'tag' }, 'Expired')];
  };

  async function revoke(token) {
    const name = escapeInvisible(token.name);
    const revoked = await openDialog({
      title: `Revoke ${name}?`,
      body: h('p', {}, 'Everything that uses this token loses access at once. This cannot be undone.'),
      actions: [{ label: 'Revoke', value: 'revoke', kind: 'danger' }],
      run: () => remove(`/tokens/${encodeURIComponent(token.id)}`),
    });
    if (!revoked) return;
    showToast(`${name} was revoked.`);
    await load();
    newToken.focus();
  }

  return h('section', { class: 'card' }, h('div', { class: 'head' }, h('h2', {}, 'Tokens'), newToken), container);
}

async function createToken() {
  const name = h('input', { type: 'text', id: 'token-name', required: true, maxlength: '100', autocomplete: 'off' });
  const option = ([value, label]) => h('option', { value }, label);
  const scope = h('select', { id: 'token-scope' }, SCOPES.map(option));
  const ttl = h('select', { id: 'token-ttl' }, LIFETIMES.map(option));
  ttl.value = '2592000';
  const created = await openDialog({
    title: 'New token',
    body: [
      h('label', { for: 'token-name' }, 'Name'),
      name,
      h('label', { for: 'token-scope' }, 'Scope'),
      scope,
      h('label', { for: 'token-ttl' }, 'Valid for'),
      ttl,
    ],
    actions: [{ label: 'Create token', value: 'create' }],
    run: () =>
      post('/tokens', { name: name.value.trim(), scope: scope.value, ttl_s: ttl.value ? Number(ttl.value) : null }),
  });
  if (!created) return false;
  await openDialog({
    title: `Token ${escapeInvisible(created.name)}`,
    body: [h('p', {}, 'Copy the token now. It is not shown again.'), copyField('token', created.token)],
    secret: true,
  });
  return true;
}
