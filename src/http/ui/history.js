// What ran since this tab was opened: the node's events, and failures of this page's own calls.

const KEPT = 500;
const SAVED = 200;
const NAME = 'storgo-history';

class History extends EventTarget {
  /** Newest first: {at (ms), type, …}. */
  entries = [];
  #serial = 0;
  #saving = null;

  constructor() {
    super();
    try {
      this.entries = JSON.parse(sessionStorage.getItem(NAME)) ?? [];
      this.#serial = this.entries[0]?.serial ?? 0;
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
      sessionStorage.setItem(NAME, JSON.stringify(this.entries.slice(0, SAVED)));
    } catch {
      /* full or refused: nothing hangs on it */
    }
  }

  /** Forgets everything: the next user of this tab is another. */
  clear() {
    this.entries = [];
    this.#save();
  }
}

export const history = new History();
