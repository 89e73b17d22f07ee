// How well a file is: what is here, who else has it, what may be lost. Asked of the nodes themselves, not assumed.

import { get, post } from './api.js';
import { fill, h } from './dom.js';
import { number, plural, short } from './format.js';
import { icon } from './icons.js';
import { complain, failure, loading, note } from './notes.js';
import { session } from './session.js';

const are = (count) => `${plural(count, 'block')} ${count === 1 ? 'is' : 'are'}`;

/** {tone, head, text} of a report. */
export function words({ state, blocks, here, lost, may_lose: spare, only_here: only }) {
  switch (state) {
    case 'ok':
      return {
        tone: 'ok',
        head: `Any ${spare === 1 ? 'node' : plural(spare, 'node')} may be lost, and the file is still there.`,
        text: `Each block is on ${plural(spare + 1, 'node')} or more, as they said just now.`,
      };
    case 'at_risk':
      return {
        tone: 'warn',
        head: only === blocks ? 'It is here alone: no other node that could be asked has it.' : 'Some of it is on one node alone.',
        text: 'If that disk is lost, so is the file. A node that reads it keeps what it read for a while; keep a backup.',
      };
    case 'damaged':
      return {
        tone: 'bad',
        head: `${are(blocks - here)} missing here, and other nodes have ${blocks - here === 1 ? 'it' : 'them'}.`,
        text: 'Repair fetches what is missing.',
      };
    default:
      return {
        tone: 'bad',
        head: `${are(lost)} on no node that could be asked.`,
        text: 'Connect a node that has the file, and ask again; or store the file here once more.',
      };
  }
}

/** The card of a file's health: {element, again, whole}; `whole()`: whether all of the file is known to be here. */
export function card(info, signal) {
  const place = h('div', { class: 'health' }, loading('Asking other nodes…'));
  const element = h('section', { class: 'card' }, h('h2', {}, 'Health'), place);
  const load = async () => {
    try {
      const report = await get(`/files/${info.cid}/health`, signal);
      whole = report.here >= report.blocks;
      const text = JSON.stringify(report);
      // What stays as it was keeps the focus.
      if (told !== text) draw(report);
      told = text;
    } catch (problem) {
      told = '';
      failure(place, problem, load);
    }
  };
  let told = '';
  let whole = false;
  const draw = (report) => {
    const { tone, head, text } = words(report);
    const mend = h('button', { type: 'button', on: { click: () => repair(mend) } }, icon('shield'), 'Repair');
    const sick = report.kept && report.here < report.blocks && session.may('write');
    const { holders } = report;
    fill(
      place,
      h(
        'div',
        { class: `state ${tone}` },
        icon(tone === 'ok' ? 'check' : 'warning'),
        h('p', {}, h('strong', {}, head), h('span', { class: 'hint' }, text)),
      ),
      sick && mend,
      h(
        'dl',
        {},
        h('dt', {}, 'Here'),
        h('dd', {}, `${number(report.here)} of ${plural(report.blocks, 'block')}`),
        h('dt', {}, 'Whole copies'),
        h('dd', {}, plural(report.copies, 'node')),
        h('dt', {}, 'Found at'),
        h(
          'dd',
          {},
          holders.length
            ? h('ul', { class: 'rows' }, holders.map(holder))
            : 'no other node that could be asked',
        ),
      ),
    );
  };
  async function repair(button) {
    button.disabled = true;
    try {
      repaired(await post(`/files/${info.cid}/repair`));
    } catch (problem) {
      complain(problem);
    }
    button.disabled = false;
    load();
  }
  load();
  return { element, again: load, whole: () => whole };
}

/** Tells how a repair ended. */
export function repaired({ repaired: fetched, missing }) {
  const got = fetched.length ? `${plural(fetched.length, 'block')} fetched` : '';
  if (missing.length) {
    const text = [got, `${plural(missing.length, 'block')} found nowhere.`].filter(Boolean).join('; ');
    note(text, 'bad', 'Connect a node that has the file and repair again, or store the file here once more.');
  } else note(got ? `${got}: nothing is missing here any more.` : 'Nothing is missing here any more.');
}

function holder({ peer, blocks, whole, connected }) {
  const has = whole ? 'all of it' : blocks === null ? 'announces it, and did not answer' : plural(blocks, 'block');
  return h(
    'li',
    { title: peer },
    h('span', { class: 'mono' }, short(peer)),
    h('span', { class: 'hint' }, ` ${has}${connected ? '' : ', not connected'}`),
  );
}
