// What the browser keeps of uploads across a reload: which file belongs to which upload. The best is a handle (the file
// stays where it is); a small file without one is kept itself; of a large one only the name, and the user chooses it again.

const KEEP_WHOLE = 64 * 1024 * 1024;

const opened = new Promise((done) => {
  try {
    const request = indexedDB.open('storgo-uploads', 1);
    request.onupgradeneeded = () => request.result.createObjectStore('uploads', { keyPath: 'key' });
    request.onsuccess = () => done(request.result);
    // Private windows may refuse: uploads work, they are only not remembered.
    request.onerror = () => done(null);
  } catch {
    done(null);
  }
});

async function act(mode, work) {
  const db = await opened;
  if (!db) return null;
  return new Promise((done) => {
    const transaction = db.transaction('uploads', mode);
    const request = work(transaction.objectStore('uploads'));
    transaction.oncomplete = () => done(request.result);
    transaction.onabort = () => done(null);
    transaction.onerror = () => done(null);
  });
}

/** Remembers an upload. */
export function keep({ key, owner, id, name, tree, size, type, mtime, stamp, unsealed, file, handle, state }) {
  const whole = !handle && file && file.size <= KEEP_WHOLE ? file : null;
  const paused = state === 'paused';
  return act('readwrite', (store) =>
    store.put({
      key,
      owner,
      id,
      name,
      tree,
      size,
      type,
      mtime,
      stamp,
      unsealed,
      paused,
      handle: handle ?? null,
      file: whole,
      at: Date.now(),
    }),
  );
}

export const forget = (key) => act('readwrite', (store) => store.delete(key));

/** What is remembered by its key; null where nothing is. */
export const one = async (key) => (await act('readonly', (store) => store.get(key))) ?? null;

/** What `owner` has begun. Others use the same browser, too. */
export async function allOf(owner) {
  const all = (await act('readonly', (store) => store.getAll())) ?? [];
  return all.filter((memory) => memory.owner === owner);
}

export async function forgetAllOf(owner) {
  await Promise.all((await allOf(owner)).map(({ key }) => forget(key)));
}
