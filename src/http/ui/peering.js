// The connected peers, kept fresh while a view shows them.

import { getSoon } from './api.js';
import { events } from './events.js';

const EVERY_MS = 5000;

/** Calls `tell(list)` now, on every change and every few seconds, until `signal` ends; `fail(problem)` where it cannot. */
export function watchPeers(signal, tell, fail = () => {}) {
  let timer = null;
  let busy = false;
  let again = false;
  const ask = async () => {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const list = await getSoon('/peers', signal);
      if (!signal.aborted) tell(list.sort((a, b) => a.peer.localeCompare(b.peer)));
    } catch (problem) {
      if (!signal.aborted) fail(problem);
    }
    busy = false;
    if (signal.aborted) return;
    timer = setTimeout(ask, again ? 100 : document.hidden ? EVERY_MS * 6 : EVERY_MS);
    again = false;
  };
  events.addEventListener('event', ({ detail }) => ['peer_connected', 'peer_lost'].includes(detail.type) && ask(), {
    signal,
  });
  signal.addEventListener('abort', () => clearTimeout(timer));
  ask();
}

/** The round trip in words. */
export const latency = ({ rtt_ms: rtt }) =>
  rtt === null || rtt === undefined ? 'not measured yet' : rtt < 10 ? `${rtt.toFixed(1)} ms` : `${Math.round(rtt)} ms`;
