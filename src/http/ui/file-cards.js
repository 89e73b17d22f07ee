// Cards of the file view: link, details, and the entries of a folder.

import { get } from './api.js';
import { fill, h, renderList, setText } from './dom.js';
import { apiPath, entryAddress, viewHref } from './file-address.js';
import { bytes, date, displayName, escapeInvisible, number, plural } from './format.js';
import { icon } from './icons.js';
import { showProblem } from './placeholders.js';
import { session } from './session.js';
import { copyField, qrCode } from './share.js';

/** A folder with more entries is shown as a scrolling list, so that the cards below it are not pushed away. */
const MAX_UNSCROLLED = 12;
/** The number of entries loaded at a time. */
const PAGE_SIZE = 1000;
/** Damaged entries named above the list. */
const MAX_DAMAGED = 5;

export function linkCard(info) {
  const card = h('section', { class: 'card' }, h('h2', {}, 'Link'));
  if (!info.link) {
    const reason = session.can('write')
      ? 'This node does not have the key of the file, so it cannot make a link.'
      : 'Sign in with a token of scope write to see links.';
    card.append(h('p', { class: 'hint' }, reason));
    return card;
  }
  const what = info.kind === 'dir' ? 'folder' : 'file';
  const hint = info.sealed
    ? `Anyone with the link can read this ${what}${info.folder ? ', but nothing else in the folder around it' : ''}.`
    : `This ${what} is public: anyone who finds it can read it, even without the link.`;
  const reach =
    info.folder && 'Nodes announce only the outermost folder, so a reader must be connected to a node that has it.';
  const code = h(
    'details',
    {
      on: {
        toggle: () => code.open && !code.querySelector('.qr') && code.append(qrCode(info.link, 'QR code of the link')),
      },
    },
    h('summary', {}, icon('qr'), 'QR code'),
  );
  card.append(h('p', { class: 'hint' }, hint, reach && ` ${reach}`), copyField('link', info.link), code);
  return card;
}

export function detailsCard(info) {
  const detail = (name, ...value) => [h('dt', {}, name), h('dd', {}, value)];
  const created = info.created ? date(info.created) : 'Unknown';
  const list = h(
    'dl',
    {},
    detail('Size', info.size === null ? 'Unknown' : info.size < 1024 ? bytes(info.size) : `${bytes(info.size)} (${number(info.size)} bytes)`),
    detail('Type', info.kind === 'dir' ? 'Folder' : info.media_type ? escapeInvisible(info.media_type) : 'Unknown'),
    detail('CID', h('span', { class: 'mono break' }, info.cid)),
    info.pinned ? detail('Stored', created) : [detail('Stored', 'Not on this node'), info.created && detail('Opened', created)],
    info.mtime && detail('Modified', date(info.mtime)),
    detail('Encrypted', info.sealed ? 'Yes' : 'No, public'),
    info.blocks && detail('Blocks', `${number(info.blocks)} (${bytes(info.stored_len)})`),
    info.chunker && detail('Chunker', info.chunker),
  );
  const rename = h(
    'details',
    {},
    h('summary', {}, 'Can I rename it?'),
    h(
      'p',
      { class: 'hint' },
      'No. The name is encrypted inside the file, and the link depends on its content. Store the file again under the new name and share the new link. The blocks are the same, so this takes almost no space.',
    ),
  );
  return h('section', { class: 'card' }, h('h2', {}, 'Details'), list, rename);
}

/** As people count: `2` before `12`. */
const NAMES = new Intl.Collator(undefined, { numeric: true });
const sortByName = (entries) => entries.sort((a, b) => NAMES.compare(a.name, b.name));

/** The entries of a folder. Further pages load on demand. */
export function folderCard(info, signal) {
  const entries = sortByName(info.entries);
  const scrolls = entries.length > MAX_UNSCROLLED;
  const list = h('ul', { class: `rows entries${scrolls ? ' long' : ''}`, 'aria-label': 'Entries' });
  const count = h('p', { class: 'hint', role: 'status' });
  const more = h('button', { type: 'button', on: { click: loadNext } }, 'Show more');
  const error = h('div');
  const damage = h('div', { class: 'state bad', hidden: true });
  let next = info.entries_next ?? null;
  const draw = () => {
    drawDamage(damage, info, entries);
    renderList(
      list,
      entries,
      ({ name }) => name,
      (entry) => entryRow(info, entry),
      () => {},
    );
    more.hidden = !next;
    const shown = plural(entries.length, 'entry', 'entries');
    if (next) setText(count, `First ${shown}`);
    else setText(count, entries.length ? shown : 'This folder is empty');
  };

  async function loadNext() {
    if (more.ariaDisabled) return;
    // Not disabled, so that the button keeps the focus.
    more.ariaDisabled = 'true';
    fill(error);
    try {
      const page = await get(apiPath(info, '/entries', { cursor: next, limit: PAGE_SIZE }), signal);
      const had = document.activeElement === more;
      entries.push(...page.entries);
      sortByName(entries);
      next = page.next ?? null;
      draw();
      // The button disappears with the last page. The focus moves to the first new entry.
      if (!next && had) list.children[entries.indexOf(sortByName(page.entries)[0])]?.querySelector('a').focus();
    } catch (problem) {
      showProblem(error, problem, loadNext);
    }
    more.ariaDisabled = null;
  }

  draw();
  return h('section', { class: 'card' }, h('h2', {}, 'Files in this folder'), damage, list, count, error, more);
}

/** In place of the entries of a folder whose list is damaged, or encrypted with a key that this node does not have. */
export const unlistedFolderCard = () =>
  h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Files in this folder'),
    h('p', { class: 'hint' }, 'The list of entries cannot be read. “Health” says whether blocks of it are missing.'),
  );

/** Says which of the entries lack blocks, with links to the first of them. */
function drawDamage(element, folder, entries) {
  const damaged = entries.filter((entry) => entry.damaged);
  const more = damaged.length - MAX_DAMAGED;
  const repair = session.can('write') ? ' “Repair” under “Health” restores them here.' : '';
  element.hidden = !damaged.length;
  fill(
    element,
    icon('warning'),
    h(
      'div',
      {},
      h('p', {}, h('strong', {}, `${plural(damaged.length, 'entry', 'entries')} ${damaged.length === 1 ? 'lacks' : 'lack'} blocks on this node`)),
      h(
        'ul',
        {},
        damaged.slice(0, MAX_DAMAGED).map((entry) => h('li', {}, entryLink(folder, entry))),
        more > 0 && h('li', {}, `and ${number(more)} more`),
      ),
      h(
        'p',
        { class: 'hint' },
        `A download of the folder fetches missing blocks from other nodes, and leaves out files that stay incomplete.${repair}`,
      ),
    ),
  );
}

const entryLink = (folder, { name }) =>
  h('a', { class: 'break', href: viewHref(entryAddress(folder, name)) }, displayName(name));

const entryRow = (folder, entry) =>
  h(
    'li',
    { class: entry.damaged ? 'bad' : null },
    icon(entry.damaged ? 'warning' : entry.kind === 'dir' ? 'folder' : 'files'),
    entryLink(folder, entry),
    entry.damaged && h('span', { class: 'tag' }, 'Lacks blocks'),
    h('span', { class: 'hint' }, bytes(entry.size)),
  );
