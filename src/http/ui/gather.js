// Files out of a drop or a file chooser, folders included: a list of {file, name, handle}. A name inside a folder is its
// path from there.

/** What was dropped. The items must be asked before the event ends; what they answer may come later. */
export async function dropped(transfer) {
  const asked = [...transfer.items].filter((item) => item.kind === 'file').map((item) => ({
    handle: item.getAsFileSystemHandle?.().catch(() => null),
    entry: item.webkitGetAsEntry?.(),
    file: item.getAsFile(),
  }));
  const found = [];
  for (const { handle, entry, file } of asked) {
    const known = await handle;
    if (known) await fromHandle(known, '', found);
    else if (entry?.isDirectory) await fromEntry(entry, '', found);
    else if (file) found.push({ file, name: file.name });
  }
  return found;
}

async function fromHandle(handle, folder, found) {
  const name = folder + handle.name;
  if (handle.kind === 'file') {
    found.push({ file: await handle.getFile(), name, handle });
  } else {
    for await (const inner of handle.values()) await fromHandle(inner, `${name}/`, found);
  }
}

async function fromEntry(entry, folder, found) {
  const name = folder + entry.name;
  if (entry.isFile) {
    found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // It answers with at most a hundred at a time.
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const inner of some) await fromEntry(inner, `${name}/`, found);
  }
}

/** What a file input holds. */
export const chosen = (input) => [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));

/** By the browser's chooser with handles, where it has one; null where it has none, [] where nothing was chosen. */
export async function choose() {
  if (!window.showOpenFilePicker) return null;
  try {
    const handles = await showOpenFilePicker({ multiple: true });
    return await Promise.all(handles.map(async (handle) => ({ handle, file: await handle.getFile(), name: handle.name })));
  } catch (error) {
    return error.name === 'AbortError' ? [] : null;
  }
}
