// Files and folders out of a drop or a chooser: a list of {file, name, handle, tree, stamp}. A folder becomes one tar
// (`tree`). What has another `stamp` is not what it was.

import { stamp, tar } from './tar.js';

/** What was dropped. The items must be asked before the event ends; what they answer may come later. */
export async function dropped(transfer) {
  const asked = [...transfer.items]
    .filter((item) => item.kind === 'file')
    .map((item) => ({
      handle: item.getAsFileSystemHandle?.().catch(() => null),
      entry: item.webkitGetAsEntry?.(),
      file: item.getAsFile(),
    }));
  const found = [];
  for (const { handle, entry, file } of asked) {
    const known = await handle;
    if (known) found.push(await fromHandle(known));
    else if (entry?.isDirectory) found.push(folder(entry.name, await insideEntry(entry)));
    else if (file) found.push(single(file));
  }
  return found;
}

/** What a file input holds; for a folder's input, the folder. */
export function chosen(input) {
  if (!input.webkitdirectory) return [...input.files].map(single);
  const folders = new Map();
  for (const file of input.files) {
    const [name, ...path] = file.webkitRelativePath.split('/');
    if (!folders.has(name)) folders.set(name, []);
    folders.get(name).push({ path: path.join('/'), file });
  }
  return [...folders].map(([name, entries]) => folder(name, entries));
}

/** By the browser's chooser with handles, where it has one; null where it has none, [] where nothing was chosen. */
export async function choose() {
  if (!window.showOpenFilePicker) return null;
  try {
    const handles = await showOpenFilePicker({ multiple: true });
    return await Promise.all(handles.map(fromHandle));
  } catch (error) {
    return error.name === 'AbortError' ? [] : null;
  }
}

/** The file or folder of a handle, as it is now. */
export async function fromHandle(handle) {
  if (handle.kind === 'file') return { ...single(await handle.getFile()), handle };
  return { ...folder(handle.name, await insideHandle(handle)), handle };
}

const single = (file) => ({ file, name: file.name, stamp: String(file.lastModified) });

const folder = (name, entries) => ({ file: tar(entries), name, tree: true, stamp: stamp(entries) });

async function insideHandle(handle, below = '') {
  const entries = [];
  for await (const inner of handle.values()) {
    const path = below + inner.name;
    if (inner.kind === 'file') entries.push({ path, file: await inner.getFile() });
    else entries.push(...orItself(await insideHandle(inner, `${path}/`), path));
  }
  return entries;
}

async function insideEntry(entry, below = '') {
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    // It answers with at most a hundred at a time.
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return entries;
    for (const inner of some) {
      const path = below + inner.name;
      if (inner.isFile) entries.push({ path, file: await new Promise((done, failed) => inner.file(done, failed)) });
      else entries.push(...orItself(await insideEntry(inner, `${path}/`), path));
    }
  }
}

/** An empty folder stands for itself; others are there by what is in them. */
const orItself = (entries, path) => (entries.length ? entries : [{ path: `${path}/` }]);
