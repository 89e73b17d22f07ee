// Events in words.

import { h } from './dom.js';
import { bytes, called, plural, short, visible } from './format.js';
import { names } from './names.js';

const file = (cid) => ({ href: `#/file/${cid}`, link: names.of(cid) === null ? short(cid) : called(names.of(cid)) });

const WORDS = {
  peer_connected: ({ peer, addr }) => ({ icon: 'peers', text: `Peer …${peer.slice(-8)} connected`, more: addr }),
  peer_lost: ({ peer }) => ({ icon: 'peers', text: `Peer …${peer.slice(-8)} is gone` }),
  listening: ({ addr }) => ({ icon: 'peers', text: 'Listening', more: addr }),
  same_identity: ({ addr }) => ({
    icon: 'warning',
    bad: true,
    text: 'Another machine runs with the identity of this node',
    more: addr,
    hint: 'The two hide each other from the swarm. Stop one of them, and give it an identity of its own: move its identity.key away.',
  }),
  stored: ({ cid, size }) => ({ icon: 'check', text: 'Stored', ...file(cid), after: `(${bytes(size)})` }),
  removed: ({ cid }) => ({ icon: 'bin', text: 'Deleted a file', more: cid }),
  announced: ({ cid, peers }) => ({ icon: 'up', text: `Told ${plural(peers, 'peer')} where to find`, ...file(cid) }),
  bad_block: ({ cid, origin }) => ({
    icon: 'warning',
    bad: true,
    text:
      origin === 'disk'
        ? 'A block on this disk was damaged; it is set aside'
        : `A damaged block came from …${origin.slice(-8)} and was refused`,
    more: cid,
    hint:
      origin === 'disk'
        ? 'Check everything on the overview: it mends what a peer can mend. Look at the disk, too.'
        : 'Nothing to do: it is fetched from somebody else.',
  }),
  collected: ({ blocks, bytes: size }) => ({ icon: 'bin', text: `Freed ${bytes(size)} in ${plural(blocks, 'block')}` }),
  skipped: ({ count }) => ({
    icon: 'activity',
    text: count
      ? `${plural(count, 'event')} left out: there were more than this page could follow`
      : 'What the node did before it was started anew is not known here',
  }),
  failed: ({ text, hint }) => ({ icon: 'warning', bad: true, text, hint }),
  silent: () => ({
    icon: 'warning',
    bad: true,
    text: 'The node stopped answering',
    hint: 'Check that storgo-node runs; its log says why it ended.',
  }),
  answers: () => ({ icon: 'check', text: 'The node answers again' }),
};

/** A described event as one line of text and a link. */
export const line = ({ text, href, link, after }) => [
  text,
  href && [' ', h('a', { href, class: 'break' }, link)],
  after && ` ${after}`,
];

/** {icon, text, href, link, after, more, hint, bad} of an event; unknown kinds are named as they are. */
export function describe(event) {
  return (
    WORDS[event.type]?.(event) ?? { icon: 'activity', text: visible(event.type.replaceAll('_', ' ')), more: visible(event.detail ?? '') }
  );
}
