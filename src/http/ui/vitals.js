// The node's status, asked every two seconds while somebody looks, and the rates that follow from it.

import { getSoon } from './api.js';
import { session } from './session.js';

const EVERY_MS = 2000;
const POINTS = 120;

class Vitals extends EventTarget {
  /** The last answer, null before the first. */
  status = null;
  /** The last four minutes: {at (ms), up, down} in bytes per second. */
  rates = [];
  #timer = null;
  #busy = false;

  constructor() {
    super();
    session.addEventListener('change', () => (session.scope ? this.now() : this.#reset()));
    document.addEventListener('visibilitychange', () => !document.hidden && this.now());
  }

  /** Asks at once. */
  async now() {
    clearTimeout(this.#timer);
    if (this.#busy || !session.scope) return;
    this.#busy = true;
    try {
      this.#take(await getSoon('/status'));
    } catch {
      /* the banner tells */
    }
    this.#busy = false;
    if (!document.hidden && session.scope) this.#timer = setTimeout(() => this.now(), EVERY_MS);
  }

  #take(status) {
    const at = performance.now();
    const before = this.last;
    this.status = status;
    // Asked in between, because something happened: too short a time to tell a rate.
    if (before && at - before.at < EVERY_MS * 0.8) return this.dispatchEvent(new Event('change'));
    if (before && before.status.peer === status.peer && status.uptime_s >= before.status.uptime_s) {
      const per = (key) => Math.max(0, (status[key] - before.status[key]) / ((at - before.at) / 1000));
      this.rates.push({ at: Date.now(), up: per('sent_bytes'), down: per('received_bytes') });
      if (this.rates.length > POINTS) this.rates.shift();
    }
    this.last = { at, status };
    return this.dispatchEvent(new Event('change'));
  }

  #reset() {
    clearTimeout(this.#timer);
    this.status = null;
    this.last = null;
    this.rates = [];
  }
}

export const vitals = new Vitals();
export { POINTS, EVERY_MS };
