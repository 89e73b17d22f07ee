// The connected peers, kept up to date while a view shows them.

import { getQuickly } from './api.js';
import { events } from './events.js';

const INTERVAL_MS = 5000;

/**
 * Calls `onPeers(list)` now, on every change and every few seconds, until `signal` aborts; `onProblem(problem)` if the
 * list cannot be loaded.
 */
export function watchPeers(signal, onPeers, onProblem = () => {}) {
  let timer = null;
  let loading = false;
  let changed = false;
  const load = async () => {
    clearTimeout(timer);
    if (loading) {
      changed = true;
      return;
    }
    loading = true;
    try {
      const list = await getQuickly('/peers', signal);
      if (!signal.aborted) onPeers(list.sort((a, b) => a.peer.localeCompare(b.peer)));
    } catch (problem) {
      if (!signal.aborted) onProblem(problem);
    }
    loading = false;
    if (signal.aborted) return;
    timer = setTimeout(load, changed ? 100 : document.hidden ? INTERVAL_MS * 6 : INTERVAL_MS);
    changed = false;
  };
  events.addEventListener('event', ({ detail }) => ['peer_connected', 'peer_lost'].includes(detail.type) && load(), {
    signal,
  });
  signal.addEventListener('abort', () => clearTimeout(timer));
  load();
}

/** The round-trip time as text. */
export const latency = ({ rtt_ms: rtt }) =>
  rtt === null || rtt === undefined ? 'Not measured yet' : rtt < 10 ? `${rtt.toFixed(1)} ms` : `${Math.round(rtt)} ms`;
