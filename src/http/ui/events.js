// The node's event stream, read with fetch instead of EventSource: the page learns why a stream ended, asks for what it
// missed while it was hidden, and closes the connection meanwhile (a browser opens six per server, for all tabs).

import { API, toProblem } from './api.js';
import { connection } from './connection.js';
import { session } from './session.js';

/** A hidden tab closes its stream after this time. */
const HIDDEN_MS = 60000;
/** The node sends something every 15 seconds. After this long without anything, the connection is dead. */
const SILENT_MS = 40000;

class Events extends EventTarget {
  #lastId = '';
  #abort = null;
  #delay = 1000;
  #hiddenTimer = null;

  constructor() {
    super();
    session.addEventListener('change', () => (session.scope ? this.#start() : this.#stop()));
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.#hiddenTimer);
      if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#stop(), HIDDEN_MS);
      else if (session.scope) this.#start();
    });
  }

  #stop() {
    this.#abort?.abort();
    this.#abort = null;
  }

  async #start() {
    if (this.#abort) return;
    const abort = new AbortController();
    this.#abort = abort;
    while (!abort.signal.aborted && session.scope) {
      const silent = new AbortController();
      let timer = null;
      const onData = () => {
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENT_MS);
      };
      onData();
      try {
        await this.#read(AbortSignal.any([abort.signal, silent.signal]), onData);
      } catch {
        if (!abort.signal.aborted) connection.lost();
      }
      clearTimeout(timer);
      if (!abort.signal.aborted) await new Promise((resolve) => setTimeout(resolve, this.#delay));
      this.#delay = Math.min(this.#delay * 2, 15000);
    }
  }

  /** Reads a stream to its end. Calls `onData` whenever something arrives. */
  async #read(signal, onData) {
    const headers = { accept: 'text/event-stream' };
    // Ask for the events since the last one.
    if (this.#lastId) headers['last-event-id'] = this.#lastId;
    const response = await fetch(`${API}/events`, { signal, headers, cache: 'no-store' });
    if (!response.ok) return toProblem(response.status, {});
    connection.seen();
    this.#delay = 1000;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return null;
      onData();
      const messages = (text + value).replaceAll('\r\n', '\n').split('\n\n');
      text = messages.pop();
      for (const message of messages) this.#dispatch(message);
    }
  }

  #dispatch(message) {
    const data = [];
    for (const line of message.split('\n')) {
      const [, field, value] = /^([^:]*): ?(.*)$/.exec(line) ?? [];
      if (field === 'data') data.push(value);
      if (field === 'id') this.#lastId = value;
    }
    if (!data.length) return;
    try {
      this.dispatchEvent(new CustomEvent('event', { detail: JSON.parse(data.join('\n')) }));
    } catch {
      /* not JSON: not an event of this API */
    }
  }
}

export const events = new Events();
