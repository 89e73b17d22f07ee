// The transfer speed, averaged over the last seconds.

const WINDOW_MS = 5000;
const MIN_SPAN_MS = 400;

export class Speed {
  /** [time, bytes] of the last seconds. */
  #samples = [];

  /** Records that `done` bytes have been transferred by now. */
  record(done) {
    const now = performance.now();
    this.#samples.push([now, done]);
    while (this.#samples.length > 2 && now - this.#samples[0][0] > WINDOW_MS) this.#samples.shift();
  }

  /** Bytes per second; null if it is too early to tell. */
  get rate() {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (!first || last[0] - first[0] < MIN_SPAN_MS) return null;
    return ((last[1] - first[1]) * 1000) / (last[0] - first[0]);
  }

  /** Seconds until `remaining` more bytes are transferred; null if unknown. */
  secondsLeft(remaining) {
    const { rate } = this;
    return rate > 0 ? remaining / rate : null;
  }
}
