// Who is connected, and how to connect more.

import { post } from '../api.js';
import { show as share } from '../copy.js';
import { ask } from '../dialog.js';
import { fill, h, keyed, say } from '../dom.js';
import { bytes, clock, plural, short, visible } from '../format.js';
import { history } from '../history.js';
import { icon } from '../icons.js';
import { complain, empty, failure, loading, note } from '../notes.js';
import { latency, watchPeers } from '../peering.js';
import { session } from '../session.js';
import { vitals } from '../vitals.js';

export const title = 'Peers';

const NONE = '–';
/** Of those that have left, so many are named. */
const GONE = 10;

/** What a peer moved, where the node counts it. An arrow stays with its number. */
const moved = ({ sent_bytes: sent, received_bytes: received }) =>
  sent === undefined
    ? NONE
    : [`↑ ${bytes(sent)}`, `↓ ${bytes(received)}`].map((way) => way.replaceAll(' ', '\u00a0')).join(' ');

const CELLS = [
  ['Peer', (peer) => short(peer.peer)],
  ['Latency', latency],
  ['Transport', ({ transport }) => transport.toUpperCase()],
  ['Path', ({ relayed }) => (relayed ? 'relayed' : 'direct')],
  // What older nodes do not say: a column of dashes is left out.
  ['Region', ({ region }) => (region ? visible(region) : NONE)],
  ['Space', ({ free }) => (free === undefined || free === null ? NONE : `${bytes(free)} free`)],
  ['Moved', moved],
];

export function show({ body, head, signal }) {
  const rows = h('tbody');
  const table = h(
    'table',
    { class: 'peers', hidden: true },
    h('caption', { class: 'unseen' }, 'Connected peers'),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        CELLS.map(([label]) => h('th', { scope: 'col' }, label)),
      ),
    ),
    rows,
  );
  const state = h('div', {}, loading());
  const words = h('p', { class: 'hint', role: 'status' });
  // An invite is into a cluster: where there is none, there is nothing to invite to.
  const inviting = h('button', { type: 'button', hidden: true, on: { click: invite } }, icon('qr'), 'Invite');
  head.append(
    h(
      'div',
      { class: 'buttons' },
      session.may('admin') &&
        h('button', { type: 'button', class: 'main', on: { click: add } }, icon('plus'), 'Add a peer'),
      session.may('admin') && inviting,
    ),
  );
  const own = h('section', { class: 'card' }, h('h2', {}, 'This node'), loading());
  const gone = h('section', { class: 'card', hidden: true });
  fill(body, words, state, table, gone, own);
  let here = null;
  const drawGone = () => {
    const left = here ? departed(here) : [];
    gone.hidden = !left.length;
    fill(
      gone,
      h('h2', {}, 'Was here'),
      h(
        'ul',
        { class: 'rows' },
        left.map(({ peer, at }) =>
          h(
            'li',
            { title: peer },
            icon('peers'),
            h('span', { class: 'mono' }, short(peer)),
            h('span', { class: 'hint' }, `until ${clock(at)}`),
          ),
        ),
      ),
    );
  };
  history.addEventListener('change', drawGone, { signal });

  watchPeers(
    signal,
    (list) => {
      here = new Set(list.map(({ peer }) => peer));
      drawGone();
      say(words, list.length ? `${plural(list.length, 'peer')} connected.` : '');
      table.hidden = !list.length;
      if (list.length) fill(state);
      else if (!state.querySelector('.alone'))
        fill(
          state,
          h(
            'div',
            { class: 'alone' },
            empty(
              'No peer is connected.',
              'Add one by its address, or start another node: on the same network they find each other.',
            ),
          ),
        );
      keyed(rows, list, ({ peer }) => peer, make, update);
      CELLS.forEach(([, text], i) => {
        const silent = list.every((peer) => text(peer) === NONE);
        for (const line of table.rows) line.cells[i].hidden = silent;
      });
    },
    (problem) => rows.children.length || failure(state, problem),
  );

  let told = '';
  const drawOwn = () => {
    if (!vitals.status) return;
    const { peer, listen, cluster } = vitals.status;
    inviting.hidden = !cluster;
    if (told === peer + listen) return;
    told = peer + listen;
    fill(
      own,
      h('h2', {}, 'This node'),
      h(
        'dl',
        {},
        h('dt', {}, 'Peer id'),
        h('dd', { class: 'mono break' }, peer),
        h('dt', {}, 'Cluster'),
        h(
          'dd',
          {},
          cluster ? 'closed: only who has the key can connect' : 'open: anyone who knows an address can connect',
        ),
        h('dt', {}, 'Others reach it at'),
        h(
          'dd',
          {},
          listen.length
            ? h(
                'ul',
                { class: 'rows' },
                listen.map((addr) => h('li', { class: 'mono break' }, addr)),
              )
            : 'no address',
        ),
      ),
    );
  };
  vitals.addEventListener('change', drawOwn, { signal });
  drawOwn();
}

/** Peers that this tab saw leave and that have not come back, the last first. */
function departed(here) {
  const last = new Map();
  for (const { type, peer, at } of history.entries)
    if (type === 'peer_lost' && !here.has(peer) && !last.has(peer)) last.set(peer, { peer, at });
  return [...last.values()].slice(0, GONE);
}

function make({ peer }) {
  return h(
    'tr',
    {},
    CELLS.map(([label], i) =>
      h(
        i ? 'td' : 'th',
        { 'data-label': label, scope: i ? null : 'row', title: i ? null : peer, class: i ? null : 'name' },
        h('span', { class: i ? null : 'mono' }),
        !i && h('span', { class: 'hint' }),
      ),
    ),
  );
}

function update(element, peer) {
  CELLS.forEach(([, text], i) => say(element.children[i].firstElementChild, text(peer)));
  say(element.children[0].lastElementChild, visible([peer.agent, peer.addrs[0]].filter(Boolean).join(' · ')));
}

async function add() {
  const field = h('input', {
    type: 'text',
    id: 'addr',
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    class: 'mono',
    placeholder: '/ip4/192.0.2.7/tcp/4001',
  });
  const done = await ask({
    title: 'Add a peer',
    body: [
      h('label', { for: 'addr' }, 'Address'),
      field,
      h(
        'p',
        { class: 'hint' },
        'A multiaddr, as “This node” shows on the other machine, with or without /p2p/… at its end. It is remembered across restarts.',
      ),
    ],
    actions: [{ label: 'Connect', value: 'connect' }],
    act: () => post('/peers', { addr: field.value.trim() }),
  });
  if (done) note(`Connected to …${done.peer.slice(-8)}.`);
}

async function invite() {
  try {
    const { invite: text } = await post('/invite');
    await share(
      'Invite',
      'invite',
      text,
      'On the new machine: storgo-node join, and then this text. It holds the key of the cluster: hand it only to who may read everything.',
    );
  } catch (problem) {
    complain(problem);
  }
}
