// The list of uploads in the corner of every view: progress, and the buttons to control each upload.

import { get } from './api.js';
import { openDialog } from './dialog.js';
import { fill, h, renderList, setText } from './dom.js';
import { filesFromInput } from './file-source.js';
import { bytes, duration, number, plural, rate } from './format.js';
import { icon } from './icons.js';
import { session } from './session.js';
import { copyText } from './share.js';
import { reportProblem, showToast } from './toasts.js';
import { showTooLate, uploads } from './uploads.js';

const MAX_SHOWN = 60;

const iconButton = (name, label, click) =>
  h('button', { type: 'button', class: 'quiet', 'aria-label': label, title: label, on: { click } }, icon(name));

const textButton = (label, click) => h('button', { type: 'button', on: { click } }, label);

/** The state of an upload in one line. */
function stateText(upload) {
  const { state, sent, size, speed, stallReason, problem } = upload;
  const progress = `${bytes(sent)} of ${bytes(size)}`;
  const problemText = [problem?.message, problem?.hint].filter(Boolean).join(' ');
  switch (state) {
    case 'queued':
      return `Queued · ${bytes(size)}`;
    case 'sending': {
      if (stallReason) return `${progress} · Retrying: ${stallReason}`;
      const left = speed.secondsLeft(size - sent);
      return [progress, speed.rate !== null && rate(speed.rate), left !== null && `${duration(left)} left`]
        .filter(Boolean)
        .join(' · ');
    }
    case 'paused':
      return `Paused · ${progress}`;
    case 'storing':
      return stallReason ? `Retrying: ${stallReason}` : 'Uploaded. Writing to disk…';
    case 'stored':
      return `Stored · ${bytes(size)}`;
    case 'failed':
      return `Not stored. ${problemText}`;
    case 'other_tab':
      return 'Uploading in another tab. Continues here if you close that tab.';
    case 'needs_permission':
      return problemText || `${progress} uploaded. Resume to let the browser read the file again.`;
    case 'needs_file':
      return problemText || `${progress} uploaded${upload.foreign ? ' elsewhere' : ''}. ${chooseAgainText(upload)}`;
    default:
      return '';
  }
}

function chooseAgainText({ tree, foreign }) {
  // This browser cannot tell whether a folder from elsewhere is the same, so it is sent from the start.
  if (tree && foreign) return 'Choose the same folder to upload it from here. It starts over.';
  return `Choose the same ${tree ? 'folder' : 'file'} again to resume.`;
}

function createRow(upload) {
  const meter = h('progress', { max: '1', 'aria-label': `Progress of ${upload.displayName}` });
  const text = h('p', { class: 'hint' });
  const tools = h('div', { class: 'tools' });
  const name = h('p', { class: 'name', title: upload.displayName }, upload.displayName);
  const row = h('li', {}, h('div', { class: 'what' }, name, meter, text), tools);
  return Object.assign(row, { meter, text, tools, drawnState: null, drawnUpload: null });
}

function chooseAgainButton(upload) {
  const input = h('input', {
    type: 'file',
    webkitdirectory: upload.tree,
    class: 'visually-hidden',
    tabindex: '-1',
    'aria-label': `Choose ${upload.displayName} again`,
    on: {
      change: () => {
        const [source] = filesFromInput(input);
        if (source) uploads.provideFile(upload, source);
        input.value = '';
      },
    },
  });
  return [input, textButton(upload.tree ? 'Choose folder' : 'Choose file', () => input.click())];
}

async function copyLink({ cid, displayName }) {
  try {
    const { link } = await get(`/files/${cid}`);
    await copyText(link);
    showToast(`Link to ${displayName} copied.`);
  } catch (problem) {
    reportProblem(problem);
  }
}

/** Cancels an upload. Asks first if some of it has arrived. */
async function cancel(upload) {
  if (upload.unfinished && upload.sent > 0) {
    const confirmed = await openDialog({
      title: `Cancel upload of ${upload.displayName}?`,
      body: h('p', {}, `The ${bytes(upload.sent)} uploaded so far are deleted.`),
      actions: [{ label: 'Cancel upload', value: 'cancel', kind: 'danger' }],
      dismiss: 'Keep upload',
    });
    if (!confirmed || upload.state === 'removed') return;
    // It finished while the dialog was open.
    if (upload.state === 'stored') {
      showTooLate(upload);
      return;
    }
  }
  uploads.remove(upload);
}

function toolsOf(upload) {
  const { displayName: name, state } = upload;
  const resume = () => uploads.resume(upload);
  const cancelButton = iconButton('cross', `Cancel upload of ${name}`, () => cancel(upload));
  switch (state) {
    case 'queued':
    case 'sending':
    case 'storing':
      return [iconButton('pause', `Pause ${name}`, () => uploads.pause(upload)), cancelButton];
    case 'paused':
      return [iconButton('play', `Resume ${name}`, resume), cancelButton];
    case 'failed':
      return [(upload.file || upload.allReceived) && textButton('Try again', resume), cancelButton];
    case 'needs_permission':
      return [textButton('Resume', resume), cancelButton];
    case 'needs_file':
      return [...chooseAgainButton(upload), cancelButton];
    case 'stored':
      return [
        h(
          'button',
          { type: 'button', class: 'copy-link', 'aria-label': `Copy link to ${name}`, on: { click: () => copyLink(upload) } },
          icon('copy'),
          h('span', {}, 'Copy link'),
        ),
        h('a', { class: 'button', href: `#/file/${upload.cid}`, 'aria-label': `Show ${name}` }, 'Show'),
        iconButton('cross', `Remove ${name} from this list`, () => uploads.remove(upload)),
      ];
    default:
      return [];
  }
}

function updateRow(row, upload) {
  const { state } = upload;
  row.meter.hidden = ['stored', 'failed', 'queued', 'other_tab'].includes(state);
  // Without a value, the progress bar shows activity of unknown length.
  if (state === 'storing') row.meter.removeAttribute('value');
  else row.meter.value = upload.size ? upload.sent / upload.size : 1;
  setText(row.text, stateText(upload));
  // A record from the node may replace an upload with the same key; the buttons must act on the current one.
  if (row.drawnState === state && row.drawnUpload === upload) return;
  const focused = row.tools.contains(document.activeElement);
  Object.assign(row, { drawnState: state, drawnUpload: upload });
  row.className = `upload ${state}`;
  fill(row.tools, toolsOf(upload));
  if (focused) row.tools.querySelector('button, a')?.focus();
}

function summaryText() {
  const unfinished = uploads.list.filter((upload) => upload.unfinished);
  const failed = uploads.list.filter(({ state }) => state === 'failed').length;
  const active = unfinished.filter(({ state }) => ['sending', 'storing'].includes(state));
  const running = active.filter(({ stallReason }) => !stallReason);
  const stalled = active.length - running.length;
  const queued = unfinished.filter(({ state }) => state === 'queued').length;
  const otherTab = unfinished.filter(({ state }) => state === 'other_tab').length;
  const foreign = unfinished.filter((upload) => upload.foreign && upload.state === 'needs_file').length;
  const stopped = unfinished.length - active.length - queued - otherTab - foreign;
  const parts = [];
  if (running.length) {
    // Stalled uploads are left out: they say nothing about the progress of the others.
    const size = running.reduce((sum, upload) => sum + upload.size, 0);
    const sent = running.reduce((sum, upload) => sum + upload.sent, 0);
    const percent = size ? Math.min(100, Math.floor((sent / size) * 100)) : 100;
    parts.push(`Uploading ${plural(running.length, 'file')}, ${percent}%`);
  }
  if (stalled) parts.push(`${number(stalled)} retrying`);
  if (queued) parts.push(`${number(queued)} queued`);
  if (stopped) parts.push(`${number(stopped)} paused`);
  if (otherTab) parts.push(`${number(otherTab)} in another tab`);
  if (foreign) parts.push(`${number(foreign)} started elsewhere`);
  if (failed) parts.push(`${number(failed)} failed`);
  if (!parts.length) parts.push(`${plural(uploads.list.length, 'file')} stored`);
  return parts.join(' · ');
}

/** Fills the list and keeps it up to date. */
export function start(element) {
  const title = h('span');
  const list = h('ul');
  const more = h('p', { class: 'hint more' });
  const clear = h(
    'button',
    { type: 'button', class: 'quiet text', on: { click: () => uploads.removeStored() } },
    'Clear stored files',
  );
  const details = h('details', {}, h('summary', {}, title), list, h('div', { class: 'foot' }, more, clear));
  // Opens with the first upload of this browser, if the window is wide enough.
  let opened = false;
  fill(element, details);
  const draw = () => {
    const rank = ({ state }) => (state === 'stored' ? 2 : ['queued', 'other_tab'].includes(state) ? 1 : 0);
    const sorted = [...uploads.list].sort((a, b) => rank(a) - rank(b));
    element.hidden = !sorted.length || !session.scope;
    if (!opened && sorted.some(({ foreign }) => !foreign)) {
      opened = true;
      details.open = !matchMedia('(max-width: 52rem)').matches;
    }
    document.body.classList.toggle('has-uploads', !element.hidden);
    setText(title, summaryText());
    renderList(list, sorted.slice(0, MAX_SHOWN), ({ key }) => key, createRow, updateRow);
    setText(more, sorted.length > MAX_SHOWN ? `and ${plural(sorted.length - MAX_SHOWN, 'more file')}` : '');
    clear.hidden = !sorted.some(({ state }) => state === 'stored');
  };
  uploads.addEventListener('change', draw);
  session.addEventListener('change', draw);
  draw();
}
