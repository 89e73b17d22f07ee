// One upload, and how it is known again what it began with.

import { Problem } from './api.js';
import { called } from './format.js';
import { Speed } from './speed.js';

/**
 * One upload. `state`: waiting | sending | paused | storing | stored | failed |
 * elsewhere (another tab has it) | locked (the browser wants a click to read the file) |
 * lost (the file must be chosen again) | gone (given up).
 */
export class Upload {
  id = null;
  sent = 0;
  state = 'waiting';
  problem = null;
  cid = null;
  /** Why it does not move though it runs: the node is away, for example. */
  stalled = null;
  speed = new Speed();
  stop = null;
  /** Whether the node has said that all bytes are there: then the file is not needed any more. */
  whole = false;
  /** Whether the node shall try again to store what it could not. */
  again = false;
  /** What gives it back to other tabs, once this one has it. */
  held = null;
  /** Ends the wait for the tab that has it. */
  watch = null;

  constructor(fields) {
    this.key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    Object.assign(this, fields);
  }

  /** Its name, fit to be shown. */
  get called() {
    return called(this.name);
  }

  /** Whether it still has something before it. */
  get open() {
    return !['stored', 'failed'].includes(this.state);
  }
}

/** An upload that the node has and this browser knows nothing of. */
export function elsewhere({ id, name, tree, mtime, length, offset, state, error, hint }) {
  return new Upload({
    key: id,
    id,
    name: name ?? 'unnamed',
    tree,
    mtime,
    size: length,
    sent: offset,
    whole: offset >= length,
    state: state === 'failed' ? 'failed' : 'lost',
    foreign: true,
    problem: error && new Problem({ detail: error, hint: hint ?? '' }),
  });
}

/** When a file was changed, seconds since 1970; of a folder, nothing is known. */
const changed = (file) => (file.lastModified ? Math.floor(file.lastModified / 1000) : null);

/** What an upload takes from what was chosen for it. */
export const facts = ({ file, tree, stamp }) => ({
  file,
  tree,
  stamp,
  size: file.size,
  type: file.type,
  mtime: changed(file),
});

/** Whether `chosen` is what the upload began with: for all that can be known of one that was begun elsewhere. */
export function is(upload, chosen) {
  if (chosen.file.size !== upload.size) return false;
  if (upload.stamp) return chosen.stamp === upload.stamp;
  return !upload.tree && (upload.mtime === null || changed(chosen.file) === upload.mtime);
}
