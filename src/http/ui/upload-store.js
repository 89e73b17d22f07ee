// Unfinished uploads that the browser remembers across a reload, in IndexedDB: which file belongs to which upload.
// A file handle is best, because the file stays where it is. Without one, a small file is stored itself; the user has to
// choose a large file again.

import { storageName } from './base.js';

const MAX_STORED_FILE = 64 * 1024 * 1024;

const opened = new Promise((resolve) => {
  try {
    const request = indexedDB.open(storageName('storgo-uploads'), 1);
    request.onupgradeneeded = () => request.result.createObjectStore('uploads', { keyPath: 'key' });
    request.onsuccess = () => resolve(request.result);
    // Private windows may refuse. Uploads work without it, but do not survive a reload.
    request.onerror = () => resolve(null);
  } catch {
    resolve(null);
  }
});

async function run(mode, operation) {
  const db = await opened;
  if (!db) return null;
  return new Promise((resolve) => {
    const transaction = db.transaction('uploads', mode);
    const request = operation(transaction.objectStore('uploads'));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => resolve(null);
    transaction.onerror = () => resolve(null);
  });
}

export function save({ key, owner, id, name, tree, size, type, mtime, fingerprint, unsealed, file, handle, state }) {
  const stored = !handle && file && file.size <= MAX_STORED_FILE ? file : null;
  const paused = state === 'paused';
  return run('readwrite', (store) =>
    store.put({
      key,
      owner,
      id,
      name,
      tree,
      size,
      type,
      mtime,
      fingerprint,
      unsealed,
      paused,
      handle: handle ?? null,
      file: stored,
      at: Date.now(),
    }),
  );
}

export const remove = (key) => run('readwrite', (store) => store.delete(key));

/** The record of an upload; null if there is none. */
export const load = async (key) => (await run('readonly', (store) => store.get(key))) ?? null;

/** The records of one user. Several users may share a browser. */
export async function loadAll(owner) {
  const all = (await run('readonly', (store) => store.getAll())) ?? [];
  return all.filter((record) => record.owner === owner);
}

export async function removeAll(owner) {
  await Promise.all((await loadAll(owner)).map(({ key }) => remove(key)));
}
