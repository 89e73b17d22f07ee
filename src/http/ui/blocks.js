// The blocks of a file as a grid: whole squares are here, hollow ones are not; round ones list other blocks.

import { get, query } from './api.js';
import { fill, h, say } from './dom.js';
import { bytes, number, plural, short } from './format.js';
import { failure, loading } from './notes.js';

const PAGE = 1000;

/** The grid of the file `cid`; pages of it come on demand. */
export function grid(cid, signal) {
  const cells = h('div', { class: 'grid', role: 'img', 'aria-label': 'Blocks' });
  const words = h('p', { class: 'hint', role: 'status' });
  const more = h('button', { type: 'button', on: { click: () => load() } }, 'Show more blocks');
  const place = h('div', {}, loading('Loading blocks…'));
  const count = { all: 0, here: 0, node: 0 };
  let cursor = null;

  async function load() {
    more.disabled = true;
    try {
      const page = await get(`/files/${cid}/blocks${query({ cursor, limit: PAGE })}`, signal);
      for (const block of page.blocks) {
        count.all += 1;
        count.here += block.here ? 1 : 0;
        count.node += block.kind === 'node' ? 1 : 0;
        const state = block.here ? 'here' : 'away';
        cells.append(
          h('i', {
            class: `${state} ${block.kind}`,
            title: `${short(block.cid)} · ${bytes(block.len)} · ${block.kind === 'node' ? 'lists other blocks' : 'data'} · ${block.here ? 'on this node' : 'not on this node'}`,
          }),
        );
      }
      cursor = page.next;
      const whole = cursor ? `Of the first ${plural(count.all, 'block')}` : `Of ${plural(count.all, 'block')}`;
      const text = `${whole}, ${number(count.here)} ${count.here === 1 ? 'is' : 'are'} on this node and ${number(count.all - count.here)} ${count.all - count.here === 1 ? 'is' : 'are'} not; ${number(count.node)} ${count.node === 1 ? 'lists' : 'list'} others.`;
      say(words, text);
      cells.setAttribute('aria-label', text);
      fill(place, words, cells, key(), cursor && more);
    } catch (problem) {
      failure(place, problem, load);
    }
    more.disabled = false;
  }
  load();
  return place;
}

const key = () =>
  h(
    'p',
    { class: 'grid-key hint', 'aria-hidden': 'true' },
    h('span', {}, h('i', { class: 'here data' }), 'here'),
    h('span', {}, h('i', { class: 'away data' }), 'not here'),
    h('span', {}, h('i', { class: 'here node' }), 'lists other blocks'),
  );
