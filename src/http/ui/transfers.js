// Transfers that the node is running, from its events.

import { events } from './events.js';

/** A transfer without an event for this long has ended. */
const STALE_MS = 6000;

class Transfers {
  #byId = new Map();

  constructor() {
    events.addEventListener('event', ({ detail }) => {
      if (detail.type !== 'transfer') return;
      if (detail.ended) this.#byId.delete(detail.id);
      else this.#byId.set(detail.id, { ...detail, at: Date.now() });
    });
  }

  /** Returns the unfinished transfers: {id, what, name, done, total, rate}. */
  running() {
    for (const [id, { at, done, total }] of this.#byId) {
      if (Date.now() - at > STALE_MS || (total !== null && done >= total)) this.#byId.delete(id);
    }
    return [...this.#byId.values()];
  }
}

export const transfers = new Transfers();
