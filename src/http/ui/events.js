// The node's events. Read with fetch and not with EventSource: so the page learns why a stream ended, can ask for what
// it missed after it was hidden, and gives its connection back meanwhile (a browser has six per server, for all tabs).

import { API, toProblem } from './api.js';
import { connection } from './connection.js';
import { session } from './session.js';

const HIDDEN_MS = 60000;
/** The node sends something every 15 seconds: silent for so long, it hangs or the way to it is cut. */
const SILENT_MS = 40000;

class Events extends EventTarget {
  #last = '';
  #stop = null;
  #wait = 1000;
  #hidden = null;

  constructor() {
    super();
    session.addEventListener('change', () => (session.scope ? this.#run() : this.#end()));
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.#hidden);
      if (document.hidden) this.#hidden = setTimeout(() => this.#end(), HIDDEN_MS);
      else if (session.scope) this.#run();
    });
  }

  #end() {
    this.#stop?.abort();
    this.#stop = null;
  }

  async #run() {
    if (this.#stop) return;
    const stop = new AbortController();
    this.#stop = stop;
    while (!stop.signal.aborted && session.scope) {
      const silent = new AbortController();
      const heard = () => {
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENT_MS);
      };
      let timer = null;
      heard();
      try {
        await this.#read(AbortSignal.any([stop.signal, silent.signal]), heard);
      } catch {
        if (!stop.signal.aborted) connection.lost();
      }
      clearTimeout(timer);
      if (!stop.signal.aborted) await new Promise((done) => setTimeout(done, this.#wait));
      this.#wait = Math.min(this.#wait * 2, 15000);
    }
  }

  /** Reads a stream to its end; `heard` is called whenever something came. */
  async #read(signal, heard) {
    const headers = { accept: 'text/event-stream' };
    // What was missed since the last one that came; before the first, nothing was missed.
    if (this.#last) headers['last-event-id'] = this.#last;
    const response = await fetch(`${API}/events`, { signal, headers, cache: 'no-store' });
    if (!response.ok) return toProblem(response.status, {});
    connection.seen();
    this.#wait = 1000;
    this.dispatchEvent(new Event('begin'));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return null;
      heard();
      const parts = (text + value).replaceAll('\r\n', '\n').split('\n\n');
      text = parts.pop();
      for (const part of parts) this.#take(part);
    }
  }

  #take(part) {
    const data = [];
    for (const line of part.split('\n')) {
      const [, field, value] = /^([^:]*): ?(.*)$/.exec(line) ?? [];
      if (field === 'data') data.push(value);
      if (field === 'id') this.#last = value;
    }
    if (!data.length) return;
    try {
      this.dispatchEvent(new CustomEvent('event', { detail: JSON.parse(data.join('\n')) }));
    } catch {
      /* not for us */
    }
  }
}

export const events = new Events();
