// What runs and what ran; what went wrong comes with what to do about it.

import { fill, h, keyed, say } from '../dom.js';
import { events } from '../events.js';
import { bytes, called, clock, duration, rate } from '../format.js';
import { history } from '../history.js';
import { icon } from '../icons.js';
import { names } from '../names.js';
import { transfers } from '../transfers.js';
import { describe, line } from '../words.js';

export const title = 'Activity';

const SHOWN = 200;

export function show({ body, signal }) {
  const runs = h('ul', { class: 'rows' });
  const none = h('p', { class: 'hint' }, 'Nothing runs.');
  const list = h('ol', { class: 'log' });
  const nothing = h('p', { class: 'hint' }, 'Nothing has happened since this page was opened.');
  const only = h('input', { type: 'checkbox', id: 'only-bad', on: { change: draw } });
  fill(
    body,
    h('section', { class: 'card' }, h('h2', {}, 'Running'), none, runs),
    h(
      'section',
      { class: 'card' },
      h('h2', {}, 'What ran'),
      h('p', { class: 'choice' }, only, h('label', { for: 'only-bad' }, 'Only what went wrong')),
      nothing,
      list,
    ),
  );

  function drawRuns() {
    const running = transfers.running();
    none.hidden = running.length > 0;
    keyed(runs, running, ({ id }) => id, makeRun, updateRun);
  }

  function draw() {
    const entries = history.entries
      .map((entry) => ({ entry, words: describe(entry) }))
      .filter(({ words }) => !only.checked || words.bad)
      .slice(0, SHOWN);
    nothing.hidden = entries.length > 0;
    say(nothing, only.checked ? 'Nothing went wrong.' : 'Nothing has happened since this page was opened.');
    fill(list, entries.map(makeEntry));
  }

  history.addEventListener('change', draw, { signal });
  names.addEventListener('change', draw, { signal });
  events.addEventListener('event', ({ detail }) => detail.type === 'transfer' && drawRuns(), { signal });
  const timer = setInterval(drawRuns, 2000);
  signal.addEventListener('abort', () => clearInterval(timer));
  draw();
  drawRuns();
}

function makeRun({ name: said, what }) {
  const name = said ? called(said) : 'a file';
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

function updateRun(element, { done, total, rate: speed }) {
  const meter = element.querySelector('progress');
  if (total) meter.value = done / total;
  else meter.removeAttribute('value');
  const left = total && speed ? `${duration((total - done) / speed)} left` : null;
  say(
    element.querySelector('.hint'),
    [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done), speed && rate(speed), left].filter(Boolean).join(' · '),
  );
}

/** A moment for programs; null where it is none. */
function iso(ms) {
  const moment = new Date(ms);
  return Number.isNaN(moment.getTime()) ? null : moment.toISOString();
}

function makeEntry({ entry, words }) {
  return h(
    'li',
    { class: words.bad ? 'bad' : null },
    h('time', { class: 'hint', datetime: iso(entry.at) }, clock(entry.at)),
    icon(words.icon),
    h(
      'div',
      {},
      h('p', {}, words.bad && h('span', { class: 'unseen' }, 'Problem: '), line(words)),
      words.more && h('p', { class: 'hint mono break' }, words.more),
      words.hint && h('p', { class: 'hint' }, h('strong', {}, 'Next: '), words.hint),
    ),
  );
}
