// The health of a file: which blocks are on this node, which other nodes have it, and how many nodes it can lose.

import { get, post } from './api.js';
import { fill, h } from './dom.js';
import { apiPath } from './file-address.js';
import { displayName, number, plural, shortId } from './format.js';
import { icon } from './icons.js';
import { loading, showProblem } from './placeholders.js';
import { session } from './session.js';
import { reportProblem, showToast } from './toasts.js';

const isOrAre = (count) => (count === 1 ? 'is' : 'are');
const itOrThem = (count) => (count === 1 ? 'it' : 'them');

/** A health report of a `what` (file or folder) as {tone, title, text}. */
function describe(what, { state, blocks, here, lost, copies, may_lose: margin, only_here: onlyHere, holders }) {
  const missing = blocks - here;
  const silent = holders.filter((holder) => holder.blocks === null).length;
  switch (state) {
    case 'ok':
      return {
        tone: 'ok',
        title: `Survives the loss of any ${margin === 1 ? 'node' : plural(margin, 'node')}`,
        text: `Every block is on ${plural(margin + 1, 'node')} or more, checked just now.`,
      };
    case 'at_risk':
      return {
        tone: 'warn',
        title: onlyHere === blocks ? 'Only this node has it' : !here && copies === 1 ? 'Only one other node has all of it' : 'Some blocks are on one node only',
        text: `If that node’s disk fails, the ${what} is lost. Keep a backup: other nodes may drop their cached copies at any time.`,
      };
    case 'unkept':
      return {
        tone: 'warn',
        title: 'It can be read here, but no node keeps all of it',
        text: `${plural(lost, 'block')} ${isOrAre(lost)} on this node only, which does not keep ${itOrThem(lost)}: ${lost === 1 ? 'it' : 'they'} may go at any time. Keep stores the ${what} here.`,
      };
    case 'damaged':
      return {
        tone: 'bad',
        title: `${plural(missing, 'block')} ${isOrAre(missing)} missing on this node`,
        text: `Other nodes have ${itOrThem(missing)}. Repair fetches ${itOrThem(missing)}.`,
      };
    case 'unknown': {
      const [who, they] = silent === 1 ? ['A node that announces', 'it runs'] : [`${plural(silent, 'node')} that announce`, 'they run'];
      return {
        tone: 'warn',
        title: `${plural(lost, 'block')} ${isOrAre(lost)} on no node that answered`,
        text: `${who} the ${what} did not answer, and may have ${itOrThem(lost)}. Check that ${they}.`,
      };
    }
    default:
      return {
        tone: 'bad',
        title: `${plural(lost, 'block')} ${isOrAre(lost)} missing on all reachable nodes`,
        text: `Connect a node that has the ${what}, or store it here again.`,
      };
  }
}

/**
 * The health card of a file: {element, refresh(), isComplete()}. `isComplete`: all blocks are known to be on this node.
 * `onKept` is called, and refreshes the card, when the file has been kept.
 */
export function healthCard(info, signal, onKept) {
  const container = h('div', { class: 'health' }, loading('Asking other nodes…'));
  const element = h('section', { class: 'card' }, h('h2', {}, 'Health'), container);
  let drawn = '';
  let complete = false;
  const load = async () => {
    try {
      const report = await get(apiPath(info, '/health'), signal);
      complete = report.here >= report.blocks;
      const key = JSON.stringify(report);
      // Not drawn again without a change, so that the focus stays.
      if (drawn !== key) draw(report);
      drawn = key;
    } catch (problem) {
      drawn = '';
      showProblem(container, problem, load);
    }
  };
  const draw = (report) => {
    const { tone, title, text } = describe(info.kind === 'dir' ? 'folder' : 'file', report);
    const button = h('button', { type: 'button', on: { click: () => repair(button) } }, icon('shield'), info.folder ? 'Repair folder' : 'Repair');
    const keep = h('button', { type: 'button', on: { click: () => keepFile(keep) } }, icon('files'), info.folder ? 'Keep folder' : 'Keep');
    const repairable = report.kept && report.here < report.blocks && session.can('write');
    fill(
      container,
      h(
        'div',
        { class: `state ${tone}` },
        icon(tone === 'ok' ? 'check' : 'warning'),
        h('p', {}, h('strong', {}, title), h('span', { class: 'hint' }, text)),
      ),
      repairable && button,
      !report.kept && session.can('write') && keep,
      !report.counted_all && h('p', { class: 'hint' }, `Only the first ${plural(report.blocks, 'block')} were counted.`),
      h(
        'dl',
        {},
        h('dt', {}, 'On this node'),
        h('dd', {}, `${number(report.here)} of ${plural(report.blocks, 'block')}`),
        h('dt', {}, 'Complete copies'),
        h('dd', {}, plural(report.copies, 'node')),
        h('dt', {}, 'Other nodes'),
        h(
          'dd',
          {},
          report.holders.length ? h('ul', { class: 'rows' }, report.holders.map(holderRow)) : 'No reachable node has it',
        ),
      ),
    );
  };
  async function repair(button) {
    button.disabled = true;
    try {
      showRepairResult(await post(apiPath({ cid: info.folder ?? info.cid }, '/repair')));
    } catch (problem) {
      reportProblem(problem);
    }
    button.disabled = false;
    load();
  }
  async function keepFile(button) {
    button.disabled = true;
    try {
      const { name, cid } = await post(apiPath({ cid: info.folder ?? info.cid }, '/keep'));
      showToast(`This node keeps ${displayName(name ?? cid)} now.`);
      await onKept();
    } catch (problem) {
      reportProblem(problem);
    }
    button.disabled = false;
  }
  load();
  return { element, refresh: load, isComplete: () => complete };
}

/** Shows the result of a repair as a toast. */
export function showRepairResult({ repaired, missing }) {
  const fetched = repaired.length ? `${plural(repaired.length, 'block')} fetched. ` : '';
  if (missing.length) {
    const hint = 'Connect a node that has the file and repair again, or store the file here again.';
    showToast(`${fetched}${plural(missing.length, 'block')} not found on any reachable node.`, 'bad', hint);
  } else showToast(`${fetched}No blocks are missing.`);
}

function holderRow({ peer, blocks, whole, connected }) {
  const share = whole ? 'all blocks' : blocks === null ? 'announced it, but did not answer' : plural(blocks, 'block');
  return h(
    'li',
    { title: peer },
    h('span', { class: 'mono' }, shortId(peer)),
    h('span', { class: 'hint' }, ` ${share}${connected ? '' : ', not connected'}`),
  );
}
