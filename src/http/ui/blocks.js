// The blocks of a file as a grid: whole squares are here, hollow ones are not; round ones list other blocks, and those
// with a ring are on other nodes, too.

import { get, query } from './api.js';
import { fill, h, say } from './dom.js';
import { bytes, number, plural, short } from './format.js';
import { failure, loading } from './notes.js';

const PAGE = 1000;

/** The grid of the file `cid`, {element, again}: `again` draws it anew, as it is then. */
export function grid(cid, signal) {
  const element = h('div', {}, drawn(cid, signal, () => {}));
  const again = () => {
    const fresh = drawn(cid, signal, () => {
      // The old one stays until the new one is there.
      if (fresh.isConnected || element.contains(document.activeElement)) return;
      fill(element, fresh);
    });
  };
  return { element, again };
}

/** One drawing of it; pages come on demand. */
function drawn(cid, signal, ready) {
  const cells = h('div', { class: 'grid', role: 'img', 'aria-label': 'Blocks' });
  const words = h('p', { class: 'hint', role: 'status' });
  const more = h('button', { type: 'button', on: { click: () => load() } }, 'Show more blocks');
  const place = h('div', {}, loading('Loading blocks…'));
  const count = { all: 0, here: 0, node: 0, elsewhere: 0 };
  const whose = h('p', { class: 'hint', role: 'status' });
  let cursor = null;

  async function load() {
    more.disabled = true;
    try {
      const from = cursor;
      const page = await get(`/files/${cid}/blocks${query({ cursor, limit: PAGE })}`, signal);
      const squares = [];
      for (const block of page.blocks) {
        count.all += 1;
        count.here += block.here ? 1 : 0;
        count.node += block.kind === 'node' ? 1 : 0;
        const state = block.here ? 'here' : 'away';
        squares.push(h('i', { class: `${state} ${block.kind}`, title: about(block) }));
      }
      cells.append(...squares);
      cursor = page.next;
      const whole = cursor ? `Of the first ${plural(count.all, 'block')}` : `Of ${plural(count.all, 'block')}`;
      const text = `${whole}, ${number(count.here)} ${count.here === 1 ? 'is' : 'are'} on this node and ${number(count.all - count.here)} ${count.all - count.here === 1 ? 'is' : 'are'} not; ${number(count.node)} ${count.node === 1 ? 'lists' : 'list'} others.`;
      say(words, text);
      cells.setAttribute('aria-label', text);
      fill(place, words, cells, key(), whose, cursor && more);
      ready();
      holders(from, squares);
    } catch (problem) {
      failure(place, problem, load);
    }
    more.disabled = false;
  }
  /** Asks who else has the blocks of a page that is drawn, and marks them. */
  async function holders(from, squares) {
    say(whose, 'Asking other nodes which of them they have…');
    try {
      const page = await get(`/files/${cid}/blocks${query({ cursor: from, limit: PAGE, holders: true })}`, signal);
      page.blocks.slice(0, squares.length).forEach((block, i) => {
        const others = block.holders - (block.here ? 1 : 0);
        squares[i].title = about(block);
        squares[i].classList.toggle('shared', others > 0);
        count.elsewhere += others > 0 ? 1 : 0;
      });
      say(
        whose,
        count.elsewhere
          ? `${plural(count.elsewhere, 'block')} of these ${count.elsewhere === 1 ? 'is' : 'are'} on other nodes, too (asked just now).`
          : 'No other node that could be asked has any of them.',
      );
    } catch (problem) {
      if (problem.name !== 'AbortError') say(whose, `Who else has them is not known: ${problem.message}`);
    }
  }
  load();
  return place;
}

function about({ cid, len, kind, here, holders }) {
  const others = holders === undefined ? [] : [`on ${plural(holders, 'node')}`];
  const what = kind === 'node' ? 'lists other blocks' : 'data';
  return [short(cid), bytes(len), what, here ? 'on this node' : 'not on this node', ...others].join(' · ');
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
