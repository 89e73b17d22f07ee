// How fast something moves, over the last seconds: steady enough to read, quick enough to be true.

const WINDOW_MS = 5000;

export class Speed {
  #marks = [];

  /** Notes that `done` bytes have moved by now. */
  at(done) {
    const now = performance.now();
    this.#marks.push([now, done]);
    while (this.#marks.length > 2 && now - this.#marks[0][0] > WINDOW_MS) this.#marks.shift();
  }

  /** Bytes per second; null where it is too early to say. */
  get rate() {
    const first = this.#marks[0];
    const last = this.#marks.at(-1);
    if (!first || last[0] - first[0] < 400) return null;
    return ((last[1] - first[1]) * 1000) / (last[0] - first[0]);
  }

  /** Seconds until `rest` more bytes have moved. */
  left(rest) {
    const { rate } = this;
    return rate > 0 ? rest / rate : null;
  }
}
