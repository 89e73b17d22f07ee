// Files and folders from a drop, a file input or a file picker, as sources: {file, name, handle, tree, fingerprint}.
// A folder becomes one tar (`tree`). A source with another fingerprint has changed.

import { fingerprint, tar } from './tar.js';

/** The dropped files. The items must be read before the event ends; their promises may resolve later. */
export async function filesFromDrop(transfer) {
  const items = [...transfer.items]
    .filter((item) => item.kind === 'file')
    .map((item) => ({
      handle: item.getAsFileSystemHandle?.().catch(() => null),
      entry: item.webkitGetAsEntry?.(),
      file: item.getAsFile(),
    }));
  const sources = [];
  for (const { handle: pending, entry, file } of items) {
    const handle = await pending;
    if (handle) sources.push(await sourceFromHandle(handle));
    else if (entry?.isDirectory) sources.push(folderSource(entry.name, await listEntry(entry)));
    else if (file) sources.push(fileSource(file));
  }
  return sources;
}

/** The files of a file input, or the folders of a folder input. */
export function filesFromInput(input) {
  if (!input.webkitdirectory) return [...input.files].map(fileSource);
  const folders = new Map();
  for (const file of input.files) {
    const [name, ...path] = file.webkitRelativePath.split('/');
    if (!folders.has(name)) folders.set(name, []);
    folders.get(name).push({ path: path.join('/'), file });
  }
  return [...folders].map(([name, entries]) => folderSource(name, entries));
}

/** Shows the browser's file picker. Resolves to null if the browser has none, to [] if the user cancelled. */
export async function showFilePicker() {
  if (!window.showOpenFilePicker) return null;
  try {
    const handles = await showOpenFilePicker({ multiple: true });
    return await Promise.all(handles.map(sourceFromHandle));
  } catch (error) {
    return error.name === 'AbortError' ? [] : null;
  }
}

/** The current content of a file or folder handle. */
export async function sourceFromHandle(handle) {
  if (handle.kind === 'file') return { ...fileSource(await handle.getFile()), handle };
  return { ...folderSource(handle.name, await listHandle(handle)), handle };
}

const fileSource = (file) => ({ file, name: file.name, fingerprint: String(file.lastModified) });

const folderSource = (name, entries) => ({ file: tar(entries), name, tree: true, fingerprint: fingerprint(entries) });

async function listHandle(folder, prefix = '') {
  const entries = [];
  for await (const child of folder.values()) {
    const path = prefix + child.name;
    if (child.kind === 'file') entries.push({ path, file: await child.getFile() });
    else entries.push(...orEmptyFolder(await listHandle(child, `${path}/`), path));
  }
  return entries;
}

async function listEntry(folder, prefix = '') {
  const reader = folder.createReader();
  const entries = [];
  for (;;) {
    // Each call returns a hundred entries at most.
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return entries;
    for (const child of batch) {
      const path = prefix + child.name;
      if (child.isFile) entries.push({ path, file: await new Promise((resolve, reject) => child.file(resolve, reject)) });
      else entries.push(...orEmptyFolder(await listEntry(child, `${path}/`), path));
    }
  }
}

/** A folder without entries gets an entry of its own; other folders follow from the paths of their entries. */
const orEmptyFolder = (entries, path) => (entries.length ? entries : [{ path: `${path}/` }]);
