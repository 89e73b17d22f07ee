// Events of the activity log as text.

import { h } from './dom.js';
import { fileNames } from './file-names.js';
import { bytes, displayName, escapeInvisible, plural, shortId } from './format.js';

/** A link to a file, by its name if it is known. */
function fileLink(cid) {
  const name = fileNames.get(cid);
  return { href: `#/file/${cid}`, link: name === null ? shortId(cid) : displayName(name) };
}

const peerName = (peer) => `peer …${peer.slice(-8)}`;
const countOf = (blocks) => plural(blocks, 'block');

const BY_TYPE = {
  peer_connected: ({ peer, addr }) => ({ icon: 'peers', text: `Connected to ${peerName(peer)}`, detail: addr }),
  peer_lost: ({ peer }) => ({ icon: 'peers', text: `Disconnected from ${peerName(peer)}` }),
  listening: ({ addr }) => ({ icon: 'peers', text: 'Listening on a new address', detail: addr }),
  same_identity: ({ addr }) => ({
    icon: 'warning',
    bad: true,
    text: 'Another machine uses the identity of this node',
    detail: addr,
    hint: 'Other nodes can reach only one of the two. Stop one of them, move its identity.key away, and run storgo-node key new there.',
  }),
  stored: ({ cid, size }) => ({ icon: 'check', text: 'Stored', ...fileLink(cid), after: `(${bytes(size)})` }),
  removed: ({ cid }) => ({ icon: 'bin', text: 'Deleted a file', detail: cid }),
  announced: ({ cid, peers }) => ({
    icon: 'up',
    text: 'Announced',
    ...fileLink(cid),
    after: `to ${plural(peers, 'peer')}`,
  }),
  bad_block: ({ cid, origin }) =>
    origin === 'disk'
      ? {
          icon: 'warning',
          bad: true,
          text: 'Moved a damaged block on this disk to quarantine',
          detail: cid,
          hint: 'Use “Verify all blocks” on the overview to fetch a good copy from a peer. Check the disk for errors.',
        }
      : {
          icon: 'warning',
          bad: true,
          text: `Rejected a damaged block from ${peerName(origin)}`,
          detail: cid,
          hint: 'Nothing. The node fetches the block from another peer.',
        },
  left_out: ({ cid, count, paths }) => ({
    icon: 'warning',
    bad: true,
    text: `${plural(count, 'entry', 'entries')} could not be read and ${count === 1 ? 'was' : 'were'} left out of`,
    ...fileLink(cid),
    detail: paths.map(escapeInvisible).join(', ') + (count > paths.length ? ', …' : ''),
    hint: 'Connect a node that has the folder, and read it again.',
  }),
  collected: ({ blocks, bytes: size }) => ({ icon: 'bin', text: `Freed ${bytes(size)} (${countOf(blocks)})` }),
  skipped: ({ count }) => ({
    icon: 'activity',
    text: count
      ? `${plural(count, 'event')} not shown: too many at once for this page`
      : 'Earlier events are not available: the node was restarted',
  }),
  failed: ({ text, hint }) => ({ icon: 'warning', bad: true, text, hint }),
  node_offline: () => ({
    icon: 'warning',
    bad: true,
    text: 'The node stopped answering',
    hint: 'Check that storgo-node is running. If it stopped, its log says why.',
  }),
  node_online: () => ({ icon: 'check', text: 'The node answers again' }),
};

/** The one-line text of a described event, with its link. */
export const eventLine = ({ text, href, link, after }) => [
  text,
  href && [' ', h('a', { href, class: 'break' }, link)],
  after && ` ${after}`,
];

/** Describes an event: {icon, text, href, link, after, detail, hint, bad}. Unknown types appear under their own name. */
export function describeEvent(event) {
  const describe = BY_TYPE[event.type];
  if (describe) return describe(event);
  return {
    icon: 'activity',
    text: escapeInvisible(event.type.replaceAll('_', ' ')),
    detail: escapeInvisible(event.detail ?? ''),
  };
}
