// Whether the node answers. While it does not, this asks again, first soon and then more rarely.

/** So long may the answer take to whether it is there: what hangs is asked again. */
const HANGS_MS = 10000;

class Connection extends EventTarget {
  online = true;
  #wait = 1000;
  #timer = null;

  /** A call reached nobody. */
  lost() {
    if (this.online) {
      this.online = false;
      this.#tell();
    }
    this.#timer ??= setTimeout(() => this.#ask(), this.#wait);
  }

  /** A call was answered. */
  seen() {
    if (this.online) return;
    this.online = true;
    this.#wait = 1000;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#tell();
  }

  async #ask() {
    this.#timer = null;
    this.#wait = Math.min(this.#wait * 1.6, 15000);
    try {
      await fetch('/livez', { cache: 'no-store', signal: AbortSignal.timeout(HANGS_MS) });
      this.seen();
    } catch {
      this.lost();
    }
  }

  #tell() {
    this.dispatchEvent(new Event('change'));
  }
}

export const connection = new Connection();
