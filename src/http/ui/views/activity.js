// Running transfers, and the activity log with the next step for every problem.

import { activityLog } from '../activity-log.js';
import { fill, h, renderList, setText } from '../dom.js';
import { describeEvent, eventLine } from '../event-text.js';
import { events } from '../events.js';
import { fileNames } from '../file-names.js';
import { bytes, clock, displayName, duration, rate } from '../format.js';
import { icon } from '../icons.js';
import { transfers } from '../transfers.js';

export const title = 'Activity';

const MAX_SHOWN = 200;

export function show({ body, signal }) {
  const running = h('ul', { class: 'rows' });
  const nothingRuns = h('p', { class: 'hint' }, 'Nothing is running');
  const log = h('ol', { class: 'log' });
  const noEntries = h('p', { class: 'hint' });
  const onlyProblems = h('input', { type: 'checkbox', id: 'only-problems', on: { change: drawLog } });
  fill(
    body,
    h('section', { class: 'card' }, h('h2', {}, 'Running'), nothingRuns, running),
    h(
      'section',
      { class: 'card' },
      h('h2', {}, 'History'),
      h('p', { class: 'choice' }, onlyProblems, h('label', { for: 'only-problems' }, 'Problems only')),
      noEntries,
      log,
    ),
  );

  function drawRunning() {
    const list = transfers.running();
    nothingRuns.hidden = list.length > 0;
    renderList(running, list, ({ id }) => id, createTransferRow, updateTransferRow);
  }

  function drawLog() {
    const entries = activityLog.entries
      .map((entry) => ({ entry, event: describeEvent(entry) }))
      .filter(({ event }) => !onlyProblems.checked || event.bad)
      .slice(0, MAX_SHOWN);
    noEntries.hidden = entries.length > 0;
    setText(noEntries, onlyProblems.checked ? 'No problems' : 'Nothing has happened since you opened this page');
    fill(log, entries.map(logRow));
  }

  activityLog.addEventListener('change', drawLog, { signal });
  fileNames.addEventListener('change', drawLog, { signal });
  events.addEventListener('event', ({ detail }) => detail.type === 'transfer' && drawRunning(), { signal });
  const timer = setInterval(drawRunning, 2000);
  signal.addEventListener('abort', () => clearInterval(timer));
  drawLog();
  drawRunning();
}

function createTransferRow({ name: fileName, what }) {
  const name = fileName ? displayName(fileName) : 'a file';
  return h(
    'li',
    { class: 'run' },
    icon(what === 'put' ? 'up' : 'down'),
    h(
      'div',
      {},
      h('p', { class: 'name' }, `${what === 'put' ? 'Storing' : 'Reading'} ${name}`),
      h('progress', { max: '1', 'aria-label': `Progress of ${name}` }),
      h('p', { class: 'hint' }),
    ),
  );
}

function updateTransferRow(row, { done, total, rate: speed }) {
  const meter = row.querySelector('progress');
  if (total) meter.value = done / total;
  else meter.removeAttribute('value');
  const left = total && speed ? `${duration((total - done) / speed)} left` : null;
  setText(
    row.querySelector('.hint'),
    [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done), speed && rate(speed), left].filter(Boolean).join(' · '),
  );
}

/** The time for the `datetime` attribute; null if it is not a valid date. */
function isoTime(ms) {
  const time = new Date(ms);
  return Number.isNaN(time.getTime()) ? null : time.toISOString();
}

function logRow({ entry, event }) {
  return h(
    'li',
    { class: event.bad ? 'bad' : null },
    h('time', { class: 'hint', datetime: isoTime(entry.at) }, clock(entry.at)),
    icon(event.icon),
    h(
      'div',
      {},
      h('p', {}, event.bad && h('span', { class: 'visually-hidden' }, 'Problem: '), eventLine(event)),
      event.detail && h('p', { class: 'hint mono break' }, event.detail),
      event.hint && h('p', { class: 'hint' }, h('strong', {}, 'What to do: '), event.hint),
    ),
  );
}
