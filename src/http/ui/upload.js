// One upload: its state, and the file it is made from.

import { sourceFromHandle } from './file-source.js';
import { displayName } from './format.js';
import { Problem } from './problem.js';
import { Speed } from './speed.js';
import { showToast } from './toasts.js';
import * as tus from './tus.js';

/**
 * `state`:
 * - queued, sending, paused, stored, failed
 * - storing: all bytes are sent, and the node writes the file
 * - other_tab: another tab sends it
 * - needs_permission: the browser wants a click before it reads the file again
 * - needs_file: the user must choose the file again
 * - removed: cancelled, or taken off the list
 */
export class Upload {
  id = null;
  sent = 0;
  state = 'queued';
  /** Why it failed. */
  problem = null;
  cid = null;
  /** Why it makes no progress at the moment, for example because the node is offline. */
  stallReason = null;
  speed = new Speed();
  /** Aborts the transfer; null if none runs. */
  abort = null;
  /** Whether the node has all bytes. The file itself is not needed then. */
  allReceived = false;
  /** Whether to ask the node again to store a file that it failed to store. */
  retryStoring = false;
  /** Promise of the function that releases the lock of this tab; null if this tab has no lock. */
  lock = null;
  /** Aborts waiting for the lock of another tab. */
  lockWait = null;
  /** Whether it was started elsewhere, so that this browser knows nothing of its file. */
  foreign = false;

  constructor(fields) {
    this.key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    Object.assign(this, fields);
  }

  get displayName() {
    return displayName(this.name);
  }

  get unfinished() {
    return !['stored', 'failed'].includes(this.state);
  }
}

/** Why the node failed to store an upload. */
export const recordProblem = ({ code, reason, error }) => new Problem({ code, reason, detail: error });

/** An upload that was started elsewhere, from the node's record of it. */
export function foreignUpload(record) {
  const { id, name, tree, mtime, length, offset, state, error } = record;
  return new Upload({
    key: id,
    id,
    name: name ?? 'Unnamed',
    tree,
    mtime,
    size: length,
    sent: offset,
    allReceived: offset >= length,
    state: state === 'failed' ? 'failed' : 'needs_file',
    foreign: true,
    problem: error && recordProblem(record),
  });
}

/** Modification time in seconds since 1970; null for a folder. */
const mtimeOf = (file) => (file.lastModified ? Math.floor(file.lastModified / 1000) : null);

/** The fields of an upload that come from its source. */
export const sourceFields = ({ file, tree, fingerprint }) => ({
  file,
  tree,
  fingerprint,
  size: file.size,
  type: file.type,
  mtime: mtimeOf(file),
});

/** Whether `source` is what the upload was started with, as far as this browser can know. */
export function isSameSource(upload, source) {
  if (source.file.size !== upload.size) return false;
  if (upload.fingerprint) return source.fingerprint === upload.fingerprint;
  return !upload.tree && (upload.mtime === null || mtimeOf(source.file) === upload.mtime);
}

/** Takes the source of an upload. If it has changed, the upload starts over: old and new bytes must not mix. */
export function setSource(upload, source) {
  const changed = !isSameSource(upload, source);
  if (changed) {
    if (upload.id) tus.terminate(upload.id).catch(() => {});
    if (upload.sent) showToast(`${upload.displayName} may have changed. The upload starts over.`);
    Object.assign(upload, { id: null, sent: 0, allReceived: false });
  }
  Object.assign(upload, sourceFields(source));
}

/** Reads the file of an upload again by its handle. */
export async function readHandle(upload) {
  setSource(upload, await sourceFromHandle(upload.handle));
}

/** Finds the file of an upload after a reload, and sets its state to what is needed for that. */
export async function findFile(upload) {
  if (upload.file) return;
  upload.state = 'needs_file';
  if (!upload.handle) return;
  try {
    upload.state = 'needs_permission';
    if ((await upload.handle.queryPermission({ mode: 'read' })) !== 'granted') return;
    await readHandle(upload);
    upload.state = 'queued';
  } catch {
    upload.state = 'needs_file';
  }
}
