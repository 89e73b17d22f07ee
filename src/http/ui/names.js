// Names of the files that events speak of by their CIDs: looked up in the list of the newest, all at once.

import { getSoon } from './api.js';

const NEWEST = 200;
const SOON_MS = 200;

class Names extends EventTarget {
  /** CID → name; null where the list did not have it. */
  #known = new Map();
  #timer = null;

  /** The name of a file, null where it is not known (yet: `change` tells). */
  of(cid) {
    if (this.#known.has(cid)) return this.#known.get(cid);
    this.#known.set(cid, null);
    this.#timer ??= setTimeout(() => this.#ask(), SOON_MS);
    return null;
  }

  /** Notes a name that is known anyway. */
  note(cid, name) {
    this.#known.set(cid, name);
  }

  async #ask() {
    this.#timer = null;
    try {
      const { files } = await getSoon(`/files?sort=created&order=desc&limit=${NEWEST}`);
      for (const { cid, name } of files) if (name) this.#known.set(cid, name);
      this.dispatchEvent(new Event('change'));
    } catch {
      /* CIDs will do */
    }
  }
}

export const names = new Names();
