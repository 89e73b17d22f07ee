// Names of files that events mention by CID. Looked up together, in the list of the newest files.

import { getQuickly } from './api.js';

const NEWEST = 200;
const BATCH_MS = 200;

class FileNames extends EventTarget {
  /** CID → name; null if the list did not have it. */
  #names = new Map();
  #timer = null;

  /** The name of a file; null if it is unknown or not loaded yet. Dispatches `change` when names have loaded. */
  get(cid) {
    if (this.#names.has(cid)) return this.#names.get(cid);
    this.#names.set(cid, null);
    this.#timer ??= setTimeout(() => this.#load(), BATCH_MS);
    return null;
  }

  set(cid, name) {
    this.#names.set(cid, name);
  }

  async #load() {
    this.#timer = null;
    try {
      const { files } = await getQuickly(`/files?sort=created&order=desc&limit=${NEWEST}`);
      for (const { cid, name } of files) if (name) this.#names.set(cid, name);
      this.dispatchEvent(new Event('change'));
    } catch {
      /* the page shows CIDs instead */
    }
  }
}

export const fileNames = new FileNames();
