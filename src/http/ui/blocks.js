// The blocks of a file as a grid: whole squares are here, hollow ones are not; round ones list other blocks, and those
// with a ring are on other nodes, too.

import { get, query } from './api.js';
import { fill, h, say } from './dom.js';
import { bytes, number, plural, short } from './format.js';
import { failure, loading } from './notes.js';

const PAGE = 1000;

/** The grid of the file `cid`, {element, again}: pages come on demand, and `again` draws those that are shown anew. */
export function grid(cid, signal) {
  const cells = h('div', { class: 'grid', role: 'img', 'aria-label': 'Blocks' });
  const words = h('p', { class: 'hint', role: 'status', tabindex: '-1' });
  const whose = h('p', { class: 'hint', role: 'status' });
  const wrong = h('div');
  const more = h('button', { type: 'button', on: { click: load } }, 'Show more blocks');
  const element = h('div', {}, loading('Loading blocks…'));
  /** Those that are shown: {cursor, next, blocks, squares}. */
  let pages = [];
  /** How many other nodes have a block, by its CID: as far as they were asked. */
  const others = new Map();
  let turn = Promise.resolve();
  let due = false;

  const ask = (cursor, holders) => get(`/files/${cid}/blocks${query({ cursor, limit: PAGE, holders })}`, signal);
  /** One after the other: what one changes is under the feet of none. */
  const inTurn = (work) => {
    turn = turn.then(() => signal.aborted || work());
  };

  async function page(cursor) {
    const { blocks, next } = await ask(cursor);
    return { cursor, next, blocks, squares: blocks.map((block) => mark(h('i'), block)) };
  }

  function mark(square, block) {
    const away = others.get(block.cid);
    square.className = `${block.here ? 'here' : 'away'} ${block.kind}${away > 0 ? ' shared' : ''}`;
    square.title = about(block, away);
    return square;
  }

  /** The next page. The button stays where it is meanwhile, so that it keeps the focus. */
  function load() {
    if (more.ariaDisabled) return;
    more.ariaDisabled = 'true';
    inTurn(async () => {
      try {
        const fresh = await page(pages.at(-1)?.next ?? null);
        if (!pages.length) fill(element, words, cells, key(), whose, wrong, more);
        pages.push(fresh);
        cells.append(...fresh.squares);
        fill(wrong);
        tell();
        say(whose, 'Asking other nodes which of them they have…');
        holders(fresh);
      } catch (problem) {
        failure(pages.length ? wrong : element, problem, load);
      }
      more.ariaDisabled = null;
    });
  }

  function again() {
    if (due) return;
    due = true;
    inTurn(async () => {
      due = false;
      if (!pages.length) return;
      try {
        // Where more of the file is known than before, there are more blocks.
        const fresh = [];
        do fresh.push(await page(fresh.at(-1)?.next ?? null));
        while (fresh.at(-1).next && fresh.length < pages.length);
        // What is as it was stays as it is drawn.
        const same = JSON.stringify(fresh.map(({ blocks }) => blocks)) === JSON.stringify(pages.map(({ blocks }) => blocks));
        if (!same) {
          pages = fresh;
          fill(
            cells,
            pages.map(({ squares }) => squares),
          );
          tell();
        }
        for (const shown of pages) holders(shown);
      } catch {
        // What is shown stays: the banner tells, and the next event asks again.
      }
    });
  }

  /** Says what is shown. */
  function tell() {
    const all = pages.flatMap(({ blocks }) => blocks);
    const count = (which) => all.filter(which).length;
    const here = count((block) => block.here);
    const away = all.length - here;
    const lists = count(({ kind }) => kind === 'node');
    const rest = Boolean(pages.at(-1).next);
    const whole = `Of ${rest ? 'the first ' : ''}${plural(all.length, 'block')}`;
    const text = `${whole}, ${number(here)} ${here === 1 ? 'is' : 'are'} on this node and ${number(away)} ${away === 1 ? 'is' : 'are'} not; ${number(lists)} ${lists === 1 ? 'lists' : 'list'} others.`;
    say(words, text);
    cells.setAttribute('aria-label', text);
    if (!rest && document.activeElement === more) words.focus();
    more.hidden = !rest;
  }

  /** Asks who else has the blocks of a page that is shown, and marks them. */
  async function holders({ cursor, blocks, squares }) {
    try {
      const told = await ask(cursor, true);
      for (const block of told.blocks) others.set(block.cid, block.holders - (block.here ? 1 : 0));
      blocks.forEach((block, i) => mark(squares[i], block));
      const shared = pages.flatMap((shown) => shown.blocks).filter((block) => others.get(block.cid) > 0).length;
      say(
        whose,
        shared
          ? `${plural(shared, 'block')} of these ${shared === 1 ? 'is' : 'are'} on other nodes, too (asked just now).`
          : 'No other node that could be asked has any of them.',
      );
    } catch (problem) {
      if (problem.name !== 'AbortError') say(whose, `Who else has them is not known: ${problem.message}`);
    }
  }

  load();
  return { element, again };
}

function about({ cid, len, kind, here }, others) {
  const nodes = others === undefined ? [] : [`on ${plural(others + (here ? 1 : 0), 'node')}`];
  const what = kind === 'node' ? 'lists other blocks' : 'data';
  return [short(cid), bytes(len), what, here ? 'on this node' : 'not on this node', ...nodes].join(' · ');
}

const key = () =>
  h(
    'p',
    { class: 'grid-key hint', 'aria-hidden': 'true' },
    h('span', {}, h('i', { class: 'here data' }), 'here'),
    h('span', {}, h('i', { class: 'away data' }), 'not here'),
    h('span', {}, h('i', { class: 'here node' }), 'lists other blocks'),
    h('span', {}, h('i', { class: 'here data shared' }), 'on other nodes, too'),
  );
