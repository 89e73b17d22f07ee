// The session, tokens, and the settings in effect with their sources.

import { getQuickly } from '../api.js';
import { BASE } from '../base.js';
import { fill, h } from '../dom.js';
import { date } from '../format.js';
import { loading, showProblem } from '../placeholders.js';
import { session } from '../session.js';
import { reportProblem } from '../toasts.js';
import { tokensCard } from '../tokens.js';

export const title = 'Settings';

const SCOPE_TEXT = {
  read: 'view and download files',
  write: 'view, download, store, delete and share files',
  admin: 'everything, including tokens and settings',
};

export function show({ body, signal }) {
  fill(
    body,
    sessionCard(),
    session.can('admin')
      ? [tokensCard(signal), settingsCard(signal)]
      : h('p', { class: 'hint' }, 'Sign in with a token of scope admin to see settings and tokens.'),
  );
}

function settingsCard(signal) {
  const container = h('div', {}, loading());
  load();

  async function load() {
    try {
      fill(container, settingsTable(await getQuickly('/settings', signal)));
    } catch (problem) {
      showProblem(container, problem, load);
    }
  }

  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Settings in effect'),
    h(
      'p',
      { class: 'hint' },
      'Flags override the environment, which overrides the configuration file, the profile and the defaults. Restart the node after a change.',
    ),
    container,
  );
}

const settingsTable = (settings) =>
  h(
    'table',
    { class: 'settings' },
    h('caption', { class: 'visually-hidden' }, 'Settings in effect'),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        ['Setting', 'Value', 'Source'].map((label) => h('th', { scope: 'col' }, label)),
      ),
    ),
    h(
      'tbody',
      {},
      settings.map(({ key, value, origin }) =>
        h(
          'tr',
          { class: origin === 'built-in' ? null : 'changed' },
          h('th', { scope: 'row', class: 'mono' }, key),
          h('td', { class: 'mono break' }, valueText(value)),
          h('td', { 'data-label': 'Source' }, origin),
        ),
      ),
    ),
  );

function valueText(value) {
  if (value === null || value === undefined || value === '') return 'not set';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function sessionCard() {
  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Session'),
    h(
      'p',
      {},
      'Signed in with scope ',
      h('strong', {}, session.scope),
      `: ${SCOPE_TEXT[session.scope]}.`,
      session.expires ? ` The session ends on ${date(session.expires)}.` : '',
    ),
    h(
      'div',
      { class: 'buttons' },
      h('button', { type: 'button', on: { click: () => session.signOut().catch(reportProblem) } }, 'Sign out'),
      h('a', { class: 'button', href: `${BASE}api/docs`, target: '_blank', rel: 'noopener' }, 'API documentation'),
    ),
  );
}
