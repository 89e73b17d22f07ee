// The node's status, polled while the page is visible, and the traffic rates computed from it.

import { getQuickly } from './api.js';
import { session } from './session.js';

export const INTERVAL_MS = 2000;
/** Samples that are kept: the last four minutes. */
export const MAX_SAMPLES = 120;

class NodeStatus extends EventTarget {
  /** The last answer of `/status`; null before the first. */
  current = null;
  /** The traffic rates, oldest first: {at (ms), up, down} in bytes per second. */
  rates = [];
  /** The status that the last rate was computed from: {at, status}. */
  #lastSample = null;
  #timer = null;
  #loading = false;

  constructor() {
    super();
    session.addEventListener('change', () => (session.scope ? this.refresh() : this.#reset()));
    document.addEventListener('visibilitychange', () => !document.hidden && this.refresh());
  }

  /** Loads the status now. */
  async refresh() {
    clearTimeout(this.#timer);
    if (this.#loading || !session.scope) return;
    this.#loading = true;
    try {
      this.#update(await getQuickly('/status'));
    } catch {
      /* the banner says that the node is offline */
    }
    this.#loading = false;
    if (!document.hidden && session.scope) this.#timer = setTimeout(() => this.refresh(), INTERVAL_MS);
  }

  #update(status) {
    const at = performance.now();
    const last = this.#lastSample;
    this.current = status;
    // After an early refresh, the time since the last sample is too short to compute a rate.
    if (!last || at - last.at >= INTERVAL_MS * 0.8) {
      if (last && last.status.peer === status.peer && status.uptime_s >= last.status.uptime_s) {
        const rateOf = (key) => Math.max(0, (status[key] - last.status[key]) / ((at - last.at) / 1000));
        this.rates.push({ at: Date.now(), up: rateOf('sent_bytes'), down: rateOf('received_bytes') });
        if (this.rates.length > MAX_SAMPLES) this.rates.shift();
      }
      this.#lastSample = { at, status };
    }
    this.dispatchEvent(new Event('change'));
  }

  #reset() {
    clearTimeout(this.#timer);
    this.current = null;
    this.#lastSample = null;
    this.rates = [];
  }
}

export const nodeStatus = new NodeStatus();
