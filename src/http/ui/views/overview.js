// The overview: a summary of all files, storage, traffic, peers and recent activity.

import { activityLog } from '../activity-log.js';
import { get, post } from '../api.js';
import { stackedBar, trafficChart } from '../charts.js';
import { openDialog } from '../dialog.js';
import { fill, h, renderList, setText } from '../dom.js';
import { describeEvent, eventLine } from '../event-text.js';
import { events } from '../events.js';
import { fileNames } from '../file-names.js';
import { bytes, duration, number, plural } from '../format.js';
import { showRepairResult } from '../health.js';
import { icon } from '../icons.js';
import { nodeStatus } from '../node-status.js';
import { atRisk, summary, verifyResult } from '../overview-summary.js';
import { latency, watchPeers } from '../peers.js';
import { loading } from '../placeholders.js';
import { session } from '../session.js';
import { reportProblem, showBusyToast } from '../toasts.js';

export const title = 'Overview';

/** How often damaged files are looked for: the node checks the length of every block for that. */
const DAMAGED_INTERVAL_MS = 30000;
const MAX_NAMED = 5;
const MAX_PEERS = 5;
const MAX_RECENT = 6;

export function show({ body, head, signal }) {
  const summaryCard = h('section', { class: 'summary', 'aria-label': 'Summary' }, loading());
  const storage = h('section', { class: 'card' }, h('h2', {}, 'Storage'), loading());
  const chart = trafficChart();
  const traffic = h('section', { class: 'card wide' }, h('h2', {}, 'Traffic with peers'), chart.element);
  const risk = h('section', { class: 'card' }, h('h2', {}, 'At risk'), loading());
  const verifyButton = h(
    'button',
    { type: 'button', on: { click: () => verify(verifyButton, loadDamaged) } },
    icon('shield'),
    'Verify all blocks',
  );
  head.append(h('div', { class: 'buttons' }, session.can('write') && verifyButton));
  const facts = h('p', { class: 'hint facts' });
  const cards = [traffic, storage, peersCard(signal), risk, recentCard(signal)];
  fill(body, summaryCard, h('div', { class: 'cards' }, cards), facts);

  let drawnSummary = '';
  let drawnRisk = '';
  let damaged = null;
  /** The number of files when damaged files were last looked for. */
  let filesThen = null;
  /** Looks for files that lack blocks: {files, total, kept}; null if the node did not answer. */
  const loadDamaged = async (abort = signal) => {
    try {
      damaged = await get(`/files?health=damaged&limit=${MAX_NAMED}`, abort);
      filesThen = nodeStatus.current?.files ?? null;
      draw();
      return damaged;
    } catch {
      // The banner says that the node is offline, and the timer tries again.
      return null;
    }
  };
  const timer = setInterval(() => !document.hidden && loadDamaged(), DAMAGED_INTERVAL_MS);
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });

  const repairButton = () => {
    const button = h('button', { type: 'button', on: { click: () => repair(button, loadDamaged) } }, icon('shield'), 'Repair');
    return button;
  };
  const draw = () => {
    const status = nodeStatus.current;
    chart.update(nodeStatus.rates);
    if (!status) return;
    fill(storage, h('h2', {}, 'Storage'), storageBar(status));
    // The number of stored files comes with the damaged ones. Say nothing about files before it is known.
    if (!damaged) return;
    if (filesThen !== null && filesThen !== status.files) {
      filesThen = null;
      loadDamaged();
    }
    const kept = damaged.kept ?? status.files;
    const { tone, title: first, text } = summary(status, { damaged: damaged.total, kept });
    if (drawnSummary !== first + text) {
      drawnSummary = first + text;
      summaryCard.className = `summary ${tone}`;
      fill(
        summaryCard,
        icon({ ok: 'check', plain: 'files' }[tone] ?? 'warning'),
        h('div', {}, h('p', { class: 'lead' }, first), h('p', { class: 'hint' }, text)),
      );
    }
    const riskKey = [status.files, status.quarantined, JSON.stringify(damaged)].join();
    if (drawnRisk !== riskKey) {
      drawnRisk = riskKey;
      fill(risk, h('h2', {}, 'At risk'), atRisk({ ...status, kept }, damaged, repairButton));
    }
    setText(facts, factsText(status, kept));
  };
  nodeStatus.addEventListener('change', draw, { signal });
  events.addEventListener(
    'event',
    ({ detail }) =>
      ['stored', 'removed', 'peer_connected', 'peer_lost', 'bad_block'].includes(detail.type) && nodeStatus.refresh(),
    { signal },
  );
  draw();
  loadDamaged();
}

function factsText(status, kept) {
  return [
    `storgo ${status.version}`,
    `running for ${duration(status.uptime_s)}`,
    `${plural(kept, 'file')} stored`,
    status.files > kept && `${number(status.files - kept)} opened by link`,
    plural(status.blocks, 'block'),
    `${plural(status.announced, 'root')} announced${status.announce_queue ? `, ${number(status.announce_queue)} queued` : ''}`,
  ]
    .filter(Boolean)
    .join(' · ');
}

function storageBar(status) {
  const { stored_bytes: all, cached_bytes: cached, capacity, disk_free: disk } = status;
  const kept = all - cached;
  const quota = capacity ? Math.max(0, capacity - kept) : (disk ?? 0);
  const free = disk === null || disk === undefined ? quota : Math.min(quota, disk + cached);
  return [
    stackedBar(
      [
        { label: 'Files', value: kept, kind: 'kept' },
        { label: 'Cache, freed when needed', value: cached, kind: 'cache' },
        { label: 'Free', value: free, kind: 'free' },
      ],
      kept + cached + free,
      bytes,
    ),
    h(
      'p',
      { class: 'hint' },
      capacity ? `Limit: ${bytes(capacity)} (storage.capacity)` : 'No limit is set: files may fill the disk.',
    ),
  ];
}

function peersCard(signal) {
  const list = h('ul', { class: 'rows' });
  const count = h('p', { class: 'hint' });
  watchPeers(signal, (peers) => {
    setText(count, peers.length ? `${plural(peers.length, 'peer')} connected` : 'No peers connected');
    renderList(
      list,
      peers.slice(0, MAX_PEERS),
      ({ peer }) => peer,
      ({ peer }) => h('li', {}, h('span', { class: 'mono' }, `…${peer.slice(-8)}`), h('span', { class: 'hint' })),
      (row, peer) =>
        setText(
          row.lastChild,
          `${peer.transport.toUpperCase()}, ${peer.relayed ? 'relayed' : 'direct'} · ${latency(peer)}`,
        ),
    );
  });
  return h('section', { class: 'card' }, h('h2', {}, 'Peers'), count, list, h('a', { href: '#/peers' }, 'All peers'));
}

function recentCard(signal) {
  const list = h('ul', { class: 'rows' });
  const draw = () => {
    const none = { serial: 0, event: { text: 'Nothing yet' } };
    const entries = activityLog.entries.slice(0, MAX_RECENT).map((entry) => ({ serial: entry.serial, event: describeEvent(entry) }));
    renderList(
      list,
      entries.length ? entries : [none],
      ({ serial }) => serial,
      ({ event }) => h('li', {}, event.icon && icon(event.icon), h('span')),
      (row, { event }) => fill(row.lastChild, eventLine(event)),
    );
  };
  activityLog.addEventListener('change', draw, { signal });
  fileNames.addEventListener('change', draw, { signal });
  draw();
  return h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Recent activity'),
    list,
    h('a', { href: '#/activity' }, 'All activity'),
  );
}

async function repair(button, loadDamaged) {
  button.disabled = true;
  const hideToast = showBusyToast('Fetching missing blocks from other nodes…');
  try {
    showRepairResult(await post('/repair').finally(hideToast));
  } catch (problem) {
    reportProblem(problem);
  }
  button.disabled = false;
  loadDamaged();
}

async function verify(button, loadDamaged) {
  button.disabled = true;
  const hideToast = showBusyToast('Verifying all blocks… This may take a while.');
  try {
    const result = await post('/verify').finally(hideToast);
    // Not aborted with the view: the result is shown even if the user has gone to another view.
    const damaged = await loadDamaged(null);
    await openDialog(verifyResult(result, damaged));
  } catch (problem) {
    reportProblem(problem);
  }
  button.disabled = false;
  nodeStatus.refresh();
}
