// What the node moves right now, as its events tell.

import { events } from './events.js';

/** Without news for so long, a transfer is taken as ended. */
const SILENT_MS = 6000;

class Transfers {
  #all = new Map();

  constructor() {
    events.addEventListener('event', ({ detail }) => {
      if (detail.type !== 'transfer') return;
      if (detail.ended) this.#all.delete(detail.id);
      else this.#all.set(detail.id, { ...detail, at: Date.now() });
    });
  }

  /** Those that are not done: {id, what, name, done, total, rate}. */
  running() {
    for (const [id, { at, done, total }] of this.#all) {
      if (Date.now() - at > SILENT_MS || (total !== null && done >= total)) this.#all.delete(id);
    }
    return [...this.#all.values()];
  }
}

export const transfers = new Transfers();
