// The connected peers, and how to connect more.

import { activityLog } from '../activity-log.js';
import { post } from '../api.js';
import { openDialog } from '../dialog.js';
import { fill, h, renderList, setText } from '../dom.js';
import { bytes, clock, escapeInvisible, plural, shortId } from '../format.js';
import { icon } from '../icons.js';
import { nodeStatus } from '../node-status.js';
import { latency, watchPeers } from '../peers.js';
import { emptyState, loading, showProblem } from '../placeholders.js';
import { session } from '../session.js';
import { openShareDialog } from '../share.js';
import { reportProblem, showToast } from '../toasts.js';

export const title = 'Peers';

const UNKNOWN = '–';
const MAX_DISCONNECTED = 10;

/** The traffic with a peer. No-break spaces keep each arrow with its number. */
const trafficText = ({ sent_bytes: sent, received_bytes: received }) =>
  sent === undefined
    ? UNKNOWN
    : [`↑ ${bytes(sent)}`, `↓ ${bytes(received)}`].map((part) => part.replaceAll(' ', '\u00a0')).join(' ');

/** [label, text of a peer]. Older nodes leave some fields out; a column without any value is hidden. */
const COLUMNS = [
  ['Peer', (peer) => shortId(peer.peer)],
  ['Latency', latency],
  ['Transport', ({ transport }) => transport.toUpperCase()],
  ['Path', ({ relayed }) => (relayed ? 'Relayed' : 'Direct')],
  ['Region', ({ region }) => (region ? escapeInvisible(region) : UNKNOWN)],
  ['Free space', ({ free }) => (free === undefined || free === null ? UNKNOWN : bytes(free))],
  ['Traffic', trafficText],
];

export function show({ body, head, signal }) {
  // Only a cluster can invite.
  const inviteButton = h('button', { type: 'button', hidden: true, on: { click: invite } }, icon('qr'), 'Invite');
  head.append(
    h(
      'div',
      { class: 'buttons' },
      session.can('admin') &&
        h('button', { type: 'button', class: 'main', on: { click: addPeer } }, icon('plus'), 'Add peer'),
      session.can('admin') && inviteButton,
    ),
  );
  const rows = h('tbody');
  const table = h(
    'table',
    { class: 'peers', hidden: true },
    h('caption', { class: 'visually-hidden' }, 'Connected peers'),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        COLUMNS.map(([label]) => h('th', { scope: 'col' }, label)),
      ),
    ),
    rows,
  );
  const state = h('div', {}, loading());
  const count = h('p', { class: 'hint', role: 'status' });
  const disconnected = h('section', { class: 'card', hidden: true });
  fill(body, count, state, table, disconnected, thisNodeCard(signal, inviteButton));

  let connected = null;
  const drawDisconnected = () => {
    const list = connected ? disconnectedPeers(connected) : [];
    disconnected.hidden = !list.length;
    fill(disconnected, h('h2', {}, 'Recently disconnected'), h('ul', { class: 'rows' }, list.map(disconnectedRow)));
  };
  activityLog.addEventListener('change', drawDisconnected, { signal });

  const drawPeers = (list) => {
    connected = new Set(list.map(({ peer }) => peer));
    drawDisconnected();
    setText(count, list.length ? `${plural(list.length, 'peer')} connected` : '');
    table.hidden = !list.length;
    if (list.length) fill(state);
    else if (!state.querySelector('.alone'))
      fill(
        state,
        h(
          'div',
          { class: 'alone' },
          emptyState(
            'No peers connected',
            'Add a peer by its address. Nodes on the same network find each other.',
          ),
        ),
      );
    renderList(rows, list, ({ peer }) => peer, createRow, updateRow);
    COLUMNS.forEach(([, text], i) => {
      const unused = list.every((peer) => text(peer) === UNKNOWN);
      for (const line of table.rows) line.cells[i].hidden = unused;
    });
  };
  watchPeers(signal, drawPeers, (problem) => rows.children.length || showProblem(state, problem));
}

/** Peers that disconnected since this tab was opened, the last first. */
function disconnectedPeers(connected) {
  const last = new Map();
  for (const { type, peer, at } of activityLog.entries)
    if (type === 'peer_lost' && !connected.has(peer) && !last.has(peer)) last.set(peer, { peer, at });
  return [...last.values()].slice(0, MAX_DISCONNECTED);
}

const disconnectedRow = ({ peer, at }) =>
  h(
    'li',
    { title: peer },
    icon('peers'),
    h('span', { class: 'mono' }, shortId(peer)),
    h('span', { class: 'hint' }, `at ${clock(at)}`),
  );

function createRow({ peer }) {
  return h(
    'tr',
    {},
    COLUMNS.map(([label], i) =>
      h(
        i ? 'td' : 'th',
        { 'data-label': label, scope: i ? null : 'row', title: i ? null : peer, class: i ? null : 'name' },
        h('span', { class: i ? null : 'mono' }),
        !i && h('span', { class: 'hint' }),
      ),
    ),
  );
}

function updateRow(row, peer) {
  COLUMNS.forEach(([, text], i) => setText(row.children[i].firstElementChild, text(peer)));
  setText(row.children[0].lastElementChild, escapeInvisible([peer.agent, peer.addrs[0]].filter(Boolean).join(' · ')));
}

/** The card “This node”. Also shows `inviteButton` if the node is in a cluster. */
function thisNodeCard(signal, inviteButton) {
  const card = h('section', { class: 'card' }, h('h2', {}, 'This node'), loading());
  let drawn = '';
  const draw = () => {
    if (!nodeStatus.current) return;
    const { peer, listen, cluster, restart_pending: pending } = nodeStatus.current;
    inviteButton.hidden = !cluster;
    const key = [peer, listen, pending].join();
    if (drawn === key) return;
    drawn = key;
    const addresses = h(
      'ul',
      { class: 'rows' },
      listen.map((addr) => h('li', { class: 'mono break' }, addr)),
    );
    fill(
      card,
      h('h2', {}, 'This node'),
      pending &&
        h(
          'div',
          { class: 'state warn' },
          icon('warning'),
          h('p', {}, 'The cluster or identity in the data directory changed after the node started. Stop it and start it again.'),
        ),
      h(
        'dl',
        {},
        h('dt', {}, 'Peer ID'),
        h('dd', { class: 'mono break' }, peer),
        h('dt', {}, 'Cluster'),
        h(
          'dd',
          {},
          cluster ? 'Closed. Only nodes with the cluster key can connect.' : 'Open. Any node that knows an address can connect.',
        ),
        h('dt', {}, 'Addresses'),
        h('dd', {}, listen.length ? addresses : 'None'),
      ),
    );
  };
  nodeStatus.addEventListener('change', draw, { signal });
  draw();
  return card;
}

async function addPeer() {
  const field = h('input', {
    type: 'text',
    id: 'addr',
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    class: 'mono',
    placeholder: '/ip4/192.0.2.7/tcp/4001',
  });
  const added = await openDialog({
    title: 'Add peer',
    body: [
      h('label', { for: 'addr' }, 'Address'),
      field,
      h(
        'p',
        { class: 'hint' },
        'A multiaddr, as shown under “This node” on the other machine. /p2p/… at its end is optional. The address is kept across restarts.',
      ),
    ],
    actions: [{ label: 'Connect', value: 'connect' }],
    run: () => post('/peers', { addr: field.value.trim() }),
  });
  if (added) showToast(`Connected to peer …${added.peer.slice(-8)}.`);
}

async function invite() {
  try {
    const { invite: text, usable_elsewhere: usable } = await post('/invite');
    const hint =
      'Run storgo-node join on the new machine and paste this invite. It contains the cluster key: give it only to people who may join the cluster. It does not expire. To read a file, a member also needs its link.';
    const local = 'It contains only addresses of this machine itself: other machines cannot reach it. Change the setting listen or external first.';
    await openShareDialog(
      'Invite a machine',
      'invite',
      text,
      usable ? hint : `${local} ${hint}`,
    );
  } catch (problem) {
    reportProblem(problem);
  }
}
