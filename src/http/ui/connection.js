// Whether the node answers. While it does not, this asks again with growing pauses.

import { BASE } from './base.js';

/** A node that does not answer within this time hangs, and is asked again. */
const PROBE_TIMEOUT_MS = 10000;

class Connection extends EventTarget {
  online = true;
  #delay = 1000;
  #timer = null;

  /** Call this when a request got no answer. */
  lost() {
    if (this.online) {
      this.online = false;
      this.#notify();
    }
    this.#timer ??= setTimeout(() => this.#probe(), this.#delay);
  }

  /** Call this when a request was answered. */
  seen() {
    if (this.online) return;
    this.online = true;
    this.#delay = 1000;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#notify();
  }

  async #probe() {
    this.#timer = null;
    this.#delay = Math.min(this.#delay * 1.6, 15000);
    try {
      await fetch(`${BASE}livez`, { cache: 'no-store', signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
      this.seen();
    } catch {
      this.lost();
    }
  }

  #notify() {
    this.dispatchEvent(new Event('change'));
  }
}

export const connection = new Connection();
