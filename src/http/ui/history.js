// What ran since this tab was opened: the node's events, and failures of this page's own calls.

const KEPT = 500;
const SAVED = 200;
const NAME = 'storgo-history';

class History extends EventTarget {
  /** Newest first: {at (ms), type, …}. */
  entries = [];
  /** Who saw it. */
  #owner = null;
  #serial = 0;
  #saving = null;

  constructor() {
    super();
    try {
      const { owner = null, newest = [] } = JSON.parse(sessionStorage.getItem(NAME)) ?? {};
      this.#owner = owner;
      this.entries = newest;
      this.#serial = newest[0]?.serial ?? 0;
    } catch {
      /* the browser keeps nothing: then it begins here */
    }
  }

  add(entry) {
    this.#serial += 1;
    this.entries.unshift({ at: entry.at_unix_ms ?? Date.now(), serial: this.#serial, ...entry });
    this.entries.length = Math.min(this.entries.length, KEPT);
    this.dispatchEvent(new Event('change'));
    this.#saving ??= setTimeout(() => this.#save(), 1000);
  }

  /** Keeps the newest across a reload of this tab. */
  #save() {
    this.#saving = null;
    try {
      sessionStorage.setItem(NAME, JSON.stringify({ owner: this.#owner, newest: this.entries.slice(0, SAVED) }));
    } catch {
      /* full or refused: nothing hangs on it */
    }
  }

  /** From now on it is `owner`'s: what another has seen is forgotten. */
  belong(owner) {
    if (owner !== this.#owner) this.clear();
    this.#owner = owner;
  }

  /** Forgets everything: the next user of this tab is another. */
  clear() {
    this.#owner = null;
    this.entries = [];
    this.#save();
    this.dispatchEvent(new Event('change'));
  }
}

export const history = new History();
