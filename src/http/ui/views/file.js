// One file: preview, link, health, details and blocks.

import { get, post } from '../api.js';
import { blockGrid } from '../block-grid.js';
import { fill, h } from '../dom.js';
import { downloadLink } from '../download.js';
import { apiPath, viewHref } from '../file-address.js';
import { events } from '../events.js';
import { detailsCard, folderCard, linkCard, unlistedFolderCard } from '../file-cards.js';
import { bytes, displayName, number, plural } from '../format.js';
import { healthCard } from '../health.js';
import { icon } from '../icons.js';
import { emptyState, loading, showProblem } from '../placeholders.js';
import { opensAutomatically, preview, previewKind } from '../preview.js';
import { removeFile, removeLabel } from '../remove-file.js';
import { session } from '../session.js';
import { reportProblem } from '../toasts.js';

export const title = 'File';

/** After an event, wait this long for further ones before reloading. */
const SETTLE_MS = 800;
/** The shortest time between two reloads, because each asks other nodes. */
const MIN_INTERVAL_MS = 4000;
/** How often an incomplete file is reloaded: no event tells that a single block has arrived. */
const INCOMPLETE_INTERVAL_MS = 20000;
/** Events of preview elements that tell that more of the file has been read. */
const MEDIA_EVENTS = ['load', 'loadeddata', 'progress', 'suspend', 'ended'];

export async function show(view) {
  const { body, id, path, signal, setTitle } = view;
  const entry = path.length ? { folder: id, path } : null;
  if (entry) setTitle(displayName(path.at(-1)));
  fill(body, loading());
  try {
    const info = { ...(await get(apiPath(entry ?? { cid: id }), signal)), ...entry };
    setTitle(displayName(info.name));
    drawCrumbs(view, info.folder_name);
    draw(view, info);
  } catch (problem) {
    drawCrumbs(view, 'Folder');
    showProblem(body, problem, problem.reason === 'entry_unknown' ? null : () => show(view));
  }
}

/** The way from the list of files to here: the folder `folderName` and those inside it. */
function drawCrumbs({ head, id, path }, folderName) {
  const crumb = (name, href) => h('li', {}, h('a', { href, title: name }, name));
  const folders = path.map((_, depth) => {
    const above = path.slice(0, depth);
    return crumb(displayName(depth ? above.at(-1) : folderName), viewHref({ cid: id, path: above }));
  });
  head.parentElement.querySelector('.crumbs')?.remove();
  head.before(h('nav', { class: 'crumbs', 'aria-label': 'Breadcrumbs' }, h('ol', {}, crumb('Files', '#/files'), folders)));
}

function draw({ body, head, signal }, info) {
  const verifyResult = h('div', { role: 'status' });
  // The heading is not replaced: it may have the focus.
  head.querySelector('.buttons')?.remove();
  head.append(fileButtons(info, verifyResult));
  const health = healthCard(info, signal, onChange);
  const blocks = blocksCard(info, signal);
  const previewSection = makePreview(info, signal);
  let details = detailsCard(info);
  fill(
    body,
    verifyResult,
    previewSection,
    info.kind === 'dir' && (info.entries ? folderCard(info, signal) : unlistedFolderCard()),
    h(
      'div',
      { class: 'cards' },
      linkCard(info),
      health.element,
      details,
      blocks.element,
    ),
  );
  watchFile(info, signal, {
    previewSection,
    isComplete: health.isComplete,
    onChange,
    onRemoved: () => {
      head.querySelector('.buttons')?.remove();
      fill(
        body,
        emptyState(
          info.folder ? 'This folder was deleted' : 'This file was deleted',
          'Someone deleted it from this node. People with the link may still be able to read it from other nodes.',
          h('a', { class: 'button', href: '#/files' }, 'All files'),
        ),
      );
    },
  });

  async function onChange() {
    const now = { ...info, ...(await get(apiPath(info), signal)) };
    if (now.pinned !== info.pinned) {
      // The buttons of a file that is kept, and of one that is not, do different things.
      info.pinned = now.pinned;
      head.querySelector('.buttons')?.replaceWith(fileButtons(info, verifyResult));
    }
    const fresh = detailsCard(now);
    fresh.querySelector('details').open = details.querySelector('details').open;
    if (!fresh.isEqualNode(details) && !details.contains(document.activeElement)) {
      details.replaceWith(fresh);
      details = fresh;
    }
    health.refresh();
    blocks.refresh();
  }
}

/** The blocks, folded away until they are asked for: {element, refresh()}. */
function blocksCard(info, signal) {
  let grid = null;
  const open = () => {
    if (grid) return;
    grid = blockGrid(info, signal);
    element.append(grid.element);
  };
  const element = h('details', { class: 'card', on: { toggle: open } }, h('summary', {}, h('h2', {}, 'Blocks')));
  return { element, refresh: () => grid?.refresh() };
}

function fileButtons(info, verifyResult) {
  const verify = h(
    'button',
    { type: 'button', on: { click: () => verifyFile(info, verify, verifyResult) } },
    icon('shield'),
    'Verify',
  );
  const label = info.kind === 'dir' ? 'Download as tar' : 'Download';
  return h(
    'div',
    { class: 'buttons' },
    downloadLink(info, { class: 'button main' }, icon('down'), label),
    // A file that is not stored here need not be complete, so there is nothing to verify. An entry is kept, verified and
    // deleted with its folder.
    session.can('write') && info.pinned && !info.folder && verify,
    session.can('write') &&
      !info.folder &&
      h(
        'button',
        { type: 'button', class: info.pinned ? 'danger' : null, on: { click: () => remove(info) } },
        icon(info.pinned ? 'bin' : 'cross'),
        removeLabel(info),
      ),
  );
}

/**
 * Calls `onChange` soon after something happened that may change what the view says about the file, and `onRemoved` when
 * the file was deleted. Until the file is complete on this node, reading the preview also fetches blocks.
 */
function watchFile(info, signal, { previewSection, isComplete, onChange, onRemoved }) {
  const removed = new AbortController();
  const watched = AbortSignal.any([signal, removed.signal]);
  let timer = null;
  let last = performance.now();
  const schedule = () => {
    const delay = Math.max(SETTLE_MS, last + MIN_INTERVAL_MS - performance.now());
    timer ??= setTimeout(async () => {
      timer = null;
      last = performance.now();
      // On failure, the old state stays: the banner says that the node is offline, and the next event tries again.
      if (!watched.aborted) await onChange().catch(() => {});
    }, delay);
  };
  const wasRead = ({ name, ended }) => ended && [info.name, info.cid].includes(name);
  const root = info.folder ?? info.cid;
  events.addEventListener(
    'event',
    ({ detail }) => {
      const { type, cid } = detail;
      if (type === 'removed' && cid === root) {
        removed.abort();
        onRemoved();
      } else if (
        ['peer_connected', 'peer_lost', 'bad_block', 'collected', 'left_out', 'skipped'].includes(type) ||
        (['stored', 'announced'].includes(type) && cid === root) ||
        (type === 'transfer' && wasRead(detail))
      )
        schedule();
    },
    { signal: watched },
  );
  // Media events do not bubble, but they can be captured.
  const onMedia = () => isComplete() || schedule();
  for (const type of MEDIA_EVENTS) previewSection?.addEventListener(type, onMedia, { capture: true, signal: watched });
  const interval = setInterval(() => document.hidden || isComplete() || schedule(), INCOMPLETE_INTERVAL_MS);
  watched.addEventListener(
    'abort',
    () => {
      clearTimeout(timer);
      clearInterval(interval);
    },
    { once: true },
  );
}

/** The preview, or a button that opens it; null if there is no preview for this type. */
function makePreview(info, signal) {
  if (!previewKind(info)) return null;
  const section = h('section', { 'aria-label': 'Preview' });
  const open = () => fill(section, preview(info, signal));
  if (opensAutomatically(info)) open();
  else {
    const text = info.pinned ? `Preview of ${bytes(info.size)}` : 'The preview fetches the file from other nodes.';
    fill(
      section,
      h(
        'div',
        { class: 'state' },
        h('p', {}, text),
        h('button', { type: 'button', on: { click: open } }, icon('play'), 'Show preview'),
      ),
    );
  }
  return section;
}

async function verifyFile(info, button, container) {
  button.disabled = true;
  fill(container, loading('Verifying all blocks of this file…'));
  try {
    fill(container, verifyText(await post(`/files/${info.cid}/verify`)));
  } catch (problem) {
    showProblem(container, problem, () => verifyFile(info, button, container));
  }
  button.disabled = false;
}

function verifyText({ checked, bytes: size, bad, missing, repaired }) {
  const unrepaired = bad.length + missing.length - repaired.length;
  const failed = unrepaired > 0;
  const outcome = failed
    ? `${plural(unrepaired, 'block')} ${unrepaired === 1 ? 'is' : 'are'} damaged or missing`
    : 'All blocks are intact';
  const counts = `${plural(checked, 'block')} verified (${bytes(size)})`;
  const fetched = repaired.length ? `, ${number(repaired.length)} fetched from peers` : '';
  const next = failed ? ' Connect a node that has the file, and verify again.' : '';
  return h(
    'div',
    { class: `state ${failed ? 'bad' : 'ok'}` },
    icon(failed ? 'warning' : 'check'),
    h('p', {}, h('strong', {}, outcome), h('span', { class: 'hint' }, `${counts}${fetched}.${next}`)),
  );
}

async function remove(info) {
  try {
    if (await removeFile(info)) location.hash = '#/files';
  } catch (problem) {
    reportProblem(problem);
  }
}
