// What ran since the page was opened (and what the node still remembers): events, and failures of this page's own calls.

const KEPT = 500;

class History extends EventTarget {
  /** Newest first: {at (ms), type, …}. */
  entries = [];

  add(entry) {
    this.entries.unshift({ at: Date.now(), ...entry });
    this.entries.length = Math.min(this.entries.length, KEPT);
    this.dispatchEvent(new Event('change'));
  }
}

export const history = new History();
