// The summary of all files of this node in the overview. It promises nothing that the node does not do.

import { h } from './dom.js';
import { bytes, displayName, number, plural } from './format.js';
import { icon } from './icons.js';
import { session } from './session.js';

const VERIFY = 'Use “Verify all blocks” to check whether files need them, and to fetch good copies from peers.';

/**
 * The summary as {tone, title, text}. The tone is `ok` only if no file is at risk. `damaged`: the number of files that
 * lack blocks on this node. `kept`: the number of files stored on this node; the others in `status.files` were only
 * opened by their links.
 */
export function summary(status, { damaged, kept }) {
  const { files: known, quarantined, peers, capacity, stored_bytes: stored } = status;
  if (damaged > 0) {
    return {
      tone: 'bad',
      title: `${plural(damaged, 'file')} ${damaged === 1 ? 'lacks' : 'lack'} blocks on this node`,
      text: 'See “At risk” below. Repair fetches missing blocks from nodes that have them.',
    };
  }
  if (quarantined > 0) {
    return {
      tone: 'bad',
      title: `${plural(quarantined, 'damaged block')} in quarantine`,
      text: `Damaged blocks are never served. ${VERIFY}`,
    };
  }
  if (!known)
    return {
      tone: 'plain',
      title: 'No files yet',
      text: session.can('write')
        ? 'Drop a file anywhere on this page. It is encrypted on this node, and you get a link to it.'
        : 'Files that others store on this node appear here. You can only read.',
    };
  if (!kept) {
    return {
      tone: 'plain',
      title: 'No files are stored on this node',
      text: `${plural(known, 'file')} opened by link. ${known === 1 ? 'It is' : 'They are'} readable as long as another node has ${known === 1 ? 'it' : 'them'}.${session.can('write') ? ' Drop a file on this page to store it here.' : ''}`,
    };
  }
  const storedText = `${plural(kept, 'file')} stored on this node`;
  if (capacity && stored > capacity * 0.95) {
    return {
      tone: 'warn',
      title: `${storedText}, and storage is almost full`,
      text: 'Delete files or raise storage.capacity. New files that do not fit are refused.',
    };
  }
  const readers = peers ? `${plural(peers, 'connected peer')} can read from this node.` : 'No peer is connected.';
  return {
    tone: 'warn',
    title: `${storedText}, without guaranteed copies elsewhere`,
    text: `Files are not replicated yet. Other nodes may drop their cached copies at any time, so keep a backup. ${readers}`,
  };
}

/** The content of the card “At risk”. `damaged`: {files, total} that lack blocks. `repairButton()` makes the button. */
export function atRisk({ kept, quarantined }, damaged, repairButton) {
  if (damaged?.total > 0) {
    const count = `${plural(damaged.total, 'file')} ${damaged.total === 1 ? 'lacks' : 'lack'} blocks:`;
    return [h('p', {}, icon('warning'), ` ${count}`), damagedFiles(damaged), session.can('write') && repairButton()];
  }
  if (quarantined > 0) {
    return [
      h('p', {}, icon('warning'), ` ${plural(quarantined, 'damaged block')} in quarantine`),
      h('p', { class: 'hint' }, VERIFY),
    ];
  }
  if (!kept) return [h('p', {}, 'No files are stored on this node')];
  return [
    h('p', {}, icon('warning'), ` ${plural(kept, 'file')} without guaranteed copies`),
    h('p', { class: 'hint' }, 'No damaged blocks are known. Files are not replicated yet: keep a backup.'),
  ];
}

/** The files that lack blocks, the first of them by name. */
const damagedFiles = ({ files, total }) =>
  h(
    'ul',
    { class: 'rows' },
    files.map(({ cid, name }) => h('li', {}, h('a', { href: `#/file/${cid}`, class: 'break' }, displayName(name)))),
    total > files.length && h('li', { class: 'hint' }, `and ${number(total - files.length)} more`),
  );

/** The result of a verification: {title, body}. `damaged`: {files, total} that lack blocks now; null if unknown. */
export function verifyResult({ checked, bytes: size, bad, missing, repaired }, damaged) {
  const unrepaired = bad.length + missing.length - repaired.length;
  const failed = unrepaired > 0 || damaged?.total > 0;
  if (!checked && !failed) return { title: 'Nothing to verify', body: h('p', {}, 'No blocks are stored on this node.') };
  return {
    title: failed ? 'Problems found' : 'No problems found',
    body: [
      h(
        'ul',
        { class: 'rows' },
        h('li', {}, `${plural(checked, 'block')} verified (${bytes(size)})`),
        h('li', {}, `${number(bad.length)} damaged`),
        h('li', {}, `${number(missing.length)} missing`),
        h('li', {}, `${number(repaired.length)} fetched from peers`),
      ),
      damaged && failed && affectedFiles(damaged),
    ],
  };
}

function affectedFiles(damaged) {
  if (!damaged.total) return h('p', {}, 'No file needs the damaged blocks.');
  return [
    h('p', {}, icon('warning'), ` ${plural(damaged.total, 'file')} ${damaged.total === 1 ? 'lacks' : 'lack'} blocks:`),
    damagedFiles(damaged),
    h(
      'p',
      { class: 'hint' },
      'No reachable node has them. Connect a node that has the file and repair, or store the file here again.',
    ),
  ];
}
