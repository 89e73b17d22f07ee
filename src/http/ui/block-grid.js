// The blocks of a file as a grid. Filled squares are on this node, hollow ones are not. Round ones are node blocks, which
// list other blocks. An outline marks blocks that other nodes have, too.

import { get } from './api.js';
import { fill, h, setText } from './dom.js';
import { apiPath } from './file-address.js';
import { bytes, number, plural, shortId } from './format.js';
import { loading, showProblem } from './placeholders.js';

const PAGE_SIZE = 1000;

/** The grid of a file: {element, refresh()}. Pages load on demand; `refresh` reloads those that are shown. */
export function blockGrid(file, signal) {
  const cells = h('div', { class: 'grid', role: 'img', 'aria-label': 'Blocks' });
  const summary = h('p', { class: 'hint', role: 'status', tabindex: '-1' });
  const othersText = h('p', { class: 'hint', role: 'status' });
  const error = h('div');
  const more = h('button', { type: 'button', on: { click: loadNext } }, 'Show more blocks');
  const element = h('div', {}, loading('Loading blocks…'));
  /** The pages that are shown: {cursor, next, blocks, squares}. */
  let pages = [];
  /** CID → number of other nodes that have the block, once they were asked. */
  const otherNodes = new Map();
  let queue = Promise.resolve();
  let refreshQueued = false;

  const fetchBlocks = (cursor, holders) =>
    get(apiPath(file, '/blocks', { cursor, limit: PAGE_SIZE, holders }), signal);
  /** Runs changes one after the other, because each of them builds on `pages`. */
  const enqueue = (change) => {
    queue = queue.then(() => signal.aborted || change());
  };

  async function loadPage(cursor) {
    const { blocks, next } = await fetchBlocks(cursor);
    return { cursor, next, blocks, squares: blocks.map((block) => drawSquare(h('i'), block)) };
  }

  function drawSquare(square, block) {
    const others = otherNodes.get(block.cid);
    square.className = `${block.here ? 'here' : 'away'} ${block.kind}${others > 0 ? ' shared' : ''}`;
    square.title = blockTitle(block, others);
    return square;
  }

  /** Loads the next page. The button is not disabled meanwhile, so that it keeps the focus. */
  function loadNext() {
    if (more.ariaDisabled) return;
    more.ariaDisabled = 'true';
    enqueue(async () => {
      try {
        const page = await loadPage(pages.at(-1)?.next ?? null);
        if (!pages.length) fill(element, summary, cells, legend(), othersText, error, more);
        pages.push(page);
        cells.append(...page.squares);
        fill(error);
        drawSummary();
        setText(othersText, 'Asking other nodes for these blocks…');
        loadHolders(page);
      } catch (problem) {
        showProblem(pages.length ? error : element, problem, loadNext);
      }
      more.ariaDisabled = null;
    });
  }

  function refresh() {
    if (refreshQueued) return;
    refreshQueued = true;
    enqueue(async () => {
      refreshQueued = false;
      if (!pages.length) return;
      try {
        const fresh = [];
        // There are more pages than before if more of the file is known now.
        do fresh.push(await loadPage(fresh.at(-1)?.next ?? null));
        while (fresh.at(-1).next && fresh.length < pages.length);
        const blocksOf = (list) => JSON.stringify(list.map(({ blocks }) => blocks));
        if (blocksOf(fresh) !== blocksOf(pages)) {
          pages = fresh;
          fill(
            cells,
            pages.map(({ squares }) => squares),
          );
          drawSummary();
        }
        for (const page of pages) loadHolders(page);
      } catch {
        // The old state stays: the banner says that the node is offline, and the next event refreshes again.
      }
    });
  }

  function drawSummary() {
    const all = pages.flatMap(({ blocks }) => blocks);
    const here = all.filter((block) => block.here).length;
    const lists = all.filter(({ kind }) => kind === 'node').length;
    const rest = Boolean(pages.at(-1).next);
    const count = rest ? `First ${plural(all.length, 'block')}` : plural(all.length, 'block');
    const text = `${count}: ${number(here)} on this node, ${number(all.length - here)} missing. ${number(lists)} of them list other blocks.`;
    setText(summary, text);
    cells.setAttribute('aria-label', text);
    if (!rest && document.activeElement === more) summary.focus();
    more.hidden = !rest;
  }

  /** Asks which other nodes have the blocks of a page, and marks the squares. */
  async function loadHolders({ cursor, blocks, squares }) {
    try {
      const answer = await fetchBlocks(cursor, true);
      for (const block of answer.blocks) otherNodes.set(block.cid, block.holders - (block.here ? 1 : 0));
      blocks.forEach((block, i) => drawSquare(squares[i], block));
      const shared = pages.flatMap((page) => page.blocks).filter((block) => otherNodes.get(block.cid) > 0).length;
      setText(
        othersText,
        shared
          ? `Other nodes have ${number(shared)} of them, checked just now.`
          : 'No other reachable node has any of them.',
      );
    } catch (problem) {
      if (problem.name !== 'AbortError') setText(othersText, `Could not ask other nodes: ${problem.message}`);
    }
  }

  loadNext();
  return { element, refresh };
}

function blockTitle({ cid, len, kind, here }, others) {
  const nodes = others === undefined ? [] : [`on ${plural(others + (here ? 1 : 0), 'node')}`];
  const content = kind === 'node' ? 'lists other blocks' : 'data';
  return [shortId(cid), bytes(len), content, here ? 'on this node' : 'missing here', ...nodes].join(' · ');
}

const legend = () =>
  h(
    'p',
    { class: 'grid-key hint', 'aria-hidden': 'true' },
    h('span', {}, h('i', { class: 'here data' }), 'On this node'),
    h('span', {}, h('i', { class: 'away data' }), 'Missing here'),
    h('span', {}, h('i', { class: 'here node' }), 'Lists other blocks'),
    h('span', {}, h('i', { class: 'here data shared' }), 'On other nodes, too'),
  );
