// The uploads, beside every view: how far each is, and what can be done about it.

import { fill, h, keyed, say } from './dom.js';
import { get } from './api.js';
import { copyText } from './copy.js';
import { ask } from './dialog.js';
import { chosen } from './gather.js';
import { bytes, duration, number, plural, rate } from './format.js';
import { icon } from './icons.js';
import { complain, note } from './notes.js';
import { session } from './session.js';
import { tooLate, uploads } from './uploads.js';

const SHOWN = 60;

const tool = (name, label, act) =>
  h('button', { type: 'button', class: 'quiet', 'aria-label': label, title: label, on: { click: act } }, icon(name));

/** One line: what state an upload is in. */
function words(upload) {
  const { state, sent, size, speed, stalled, problem } = upload;
  const far = `${bytes(sent)} of ${bytes(size)}`;
  if (state === 'sending') {
    if (stalled) return `${far} · waiting: ${stalled}`;
    const left = speed.left(size - sent);
    return [far, speed.rate !== null && rate(speed.rate), left !== null && `${duration(left)} left`]
      .filter(Boolean)
      .join(' · ');
  }
  const unread = problem && `${problem.message} ${problem.hint}`;
  return {
    waiting: `waiting · ${bytes(size)}`,
    paused: `paused at ${far}`,
    storing: stalled ? `waiting: ${stalled}` : 'all sent; being written to disk',
    stored: `stored · ${bytes(size)}`,
    failed: ['not stored:', problem?.message, problem?.hint].filter(Boolean).join(' '),
    elsewhere: 'in another tab; it comes here when that is closed',
    locked: unread ?? `${far} are there. The browser wants to be asked before it reads the file again.`,
    lost: unread ?? `${far} are there${upload.foreign ? ', sent from elsewhere' : ''}. ${chooseAgain(upload)}`,
  }[state];
}

function chooseAgain({ tree, foreign }) {
  // Whether it is the same folder cannot be known here, so none of it is taken for that.
  if (tree && foreign) return 'Choose the same folder to send it from here, from its beginning.';
  return `Choose the same ${tree ? 'folder' : 'file'} again to go on${foreign ? ' here' : ''}.`;
}

function row(upload) {
  const meter = h('progress', { max: '1', 'aria-label': `Progress of ${upload.called}` });
  const text = h('p', { class: 'hint' });
  const tools = h('div', { class: 'tools' });
  const element = h(
    'li',
    {},
    h('div', { class: 'what' }, h('p', { class: 'name', title: upload.called }, upload.called), meter, text),
    tools,
  );
  return Object.assign(element, { meter, text, tools, drawn: null, of: null });
}

function rejoin(upload) {
  const input = h('input', {
    type: 'file',
    webkitdirectory: upload.tree,
    class: 'unseen',
    tabindex: '-1',
    'aria-label': `Choose ${upload.called} again`,
    on: {
      change: () => {
        const [again] = chosen(input);
        if (again) uploads.rejoin(upload, again);
        input.value = '';
      },
    },
  });
  return [
    input,
    h('button', { type: 'button', on: { click: () => input.click() } }, upload.tree ? 'Choose folder' : 'Choose file'),
  ];
}

async function copyLink({ cid, called }) {
  try {
    const { link } = await get(`/files/${cid}`);
    await copyText(link);
    note(`The link of ${called} is copied.`);
  } catch (problem) {
    complain(problem);
  }
}

/** What has arrived is not thrown away by a slip of the hand. */
async function giveUp(upload) {
  if (upload.open && upload.sent > 0) {
    const sure = await ask({
      title: `Give up storing ${upload.called}?`,
      body: h('p', {}, `What has arrived (${bytes(upload.sent)}) is thrown away.`),
      actions: [{ label: 'Give up', value: 'end', kind: 'danger' }],
    });
    if (!sure || upload.state === 'gone') return;
    // It did not wait for the answer.
    if (upload.state === 'stored') {
      tooLate(upload);
      return;
    }
  }
  uploads.dismiss(upload);
}

function toolsOf(upload) {
  const { called: name, state } = upload;
  const end = tool('cross', `Give up storing ${name}`, () => giveUp(upload));
  switch (state) {
    case 'waiting':
    case 'sending':
    case 'storing':
      return [tool('pause', `Pause ${name}`, () => uploads.pause(upload)), end];
    case 'paused':
      return [tool('play', `Go on with ${name}`, () => uploads.resume(upload)), end];
    case 'failed':
      return [
        (upload.file || upload.whole) &&
          h('button', { type: 'button', on: { click: () => uploads.resume(upload) } }, 'Try again'),
        end,
      ];
    case 'locked':
      return [h('button', { type: 'button', on: { click: () => uploads.resume(upload) } }, 'Go on'), end];
    case 'lost':
      return [...rejoin(upload), end];
    case 'stored':
      return [
        h(
          'button',
          { type: 'button', class: 'copy-link', 'aria-label': `Copy link of ${name}`, on: { click: () => copyLink(upload) } },
          icon('copy'),
          h('span', {}, 'Copy link'),
        ),
        h('a', { class: 'button', href: `#/file/${upload.cid}` }, 'Show'),
        tool('cross', `Take ${name} off this list`, () => uploads.dismiss(upload)),
      ];
    default:
      return [];
  }
}

function update(element, upload) {
  const { state } = upload;
  element.meter.hidden = ['stored', 'failed', 'waiting', 'elsewhere'].includes(state);
  // Without a value it shows that it works without saying how far.
  if (state === 'storing') element.meter.removeAttribute('value');
  else element.meter.value = upload.size ? upload.sent / upload.size : 1;
  say(element.text, words(upload));
  // What the node has of an upload can come back as another of the same key: the tools are this one's.
  if (element.drawn === state && element.of === upload) return;
  const focused = element.tools.contains(document.activeElement);
  Object.assign(element, { drawn: state, of: upload });
  element.className = `upload ${state}`;
  fill(element.tools, toolsOf(upload));
  if (focused) element.tools.querySelector('button, a')?.focus();
}

function summary() {
  const open = uploads.list.filter((upload) => upload.open);
  const failed = uploads.list.filter(({ state }) => state === 'failed').length;
  const running = open.filter(({ state, stalled }) => !stalled && ['sending', 'storing'].includes(state));
  const stalled = open.filter((upload) => upload.stalled && ['sending', 'storing'].includes(upload.state)).length;
  const queued = open.filter(({ state }) => state === 'waiting').length;
  const elsewhere = open.filter(({ state }) => state === 'elsewhere').length;
  const foreign = open.filter((upload) => upload.foreign && upload.state === 'lost').length;
  const parts = [];
  if (running.length) {
    // Of what moves alone: one that waits for the node says nothing about the others.
    const size = running.reduce((sum, upload) => sum + upload.size, 0);
    const sent = running.reduce((sum, upload) => sum + upload.sent, 0);
    const done = size ? Math.min(100, Math.floor((sent / size) * 100)) : 100;
    parts.push(`storing ${plural(running.length, 'file')}, ${done} %`);
  }
  if (stalled) parts.push(`${number(stalled)} held up`);
  if (queued) parts.push(`${number(queued)} waiting`);
  const still = open.length - running.length - stalled - queued - elsewhere - foreign;
  if (still) parts.push(`${still} not running`);
  if (elsewhere) parts.push(`${elsewhere} in another tab`);
  if (foreign) parts.push(`${number(foreign)} begun elsewhere`);
  if (failed) parts.push(`${failed} failed`);
  if (!parts.length) parts.push(`${plural(uploads.list.length, 'file')} stored`);
  return parts.join(' · ');
}

/** Fills the tray and keeps it true. */
export function begin(element) {
  const title = h('span');
  const list = h('ul');
  const more = h('p', { class: 'hint more' });
  const clear = h(
    'button',
    { type: 'button', class: 'quiet text', on: { click: () => uploads.dismissFinished() } },
    'Clear what is stored',
  );
  // Open as soon as something of this browser is in it, where there is room.
  let begun = false;
  const details = h(
    'details',
    {},
    h('summary', {}, title),
    list,
    h('div', { class: 'foot' }, more, clear),
  );
  fill(element, details);
  const draw = () => {
    const rank = ({ state }) => (state === 'stored' ? 2 : ['waiting', 'elsewhere'].includes(state) ? 1 : 0);
    const sorted = [...uploads.list].sort((a, b) => rank(a) - rank(b));
    element.hidden = !sorted.length || !session.scope;
    if (!begun && sorted.some(({ foreign }) => !foreign)) {
      begun = true;
      details.open = !matchMedia('(max-width: 52rem)').matches;
    }
    document.body.classList.toggle('has-tray', !element.hidden);
    say(title, summary());
    keyed(list, sorted.slice(0, SHOWN), ({ key }) => key, row, update);
    say(more, sorted.length > SHOWN ? `and ${plural(sorted.length - SHOWN, 'more file')}` : '');
    clear.hidden = !sorted.some(({ state }) => state === 'stored');
  };
  uploads.addEventListener('change', draw);
  draw();
}
