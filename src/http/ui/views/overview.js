// Everything at a glance: one true sentence, the storage, what moves, who is there.

import { get, post } from '../api.js';
import { ask } from '../dialog.js';
import { events } from '../events.js';
import { fill, h, keyed, say } from '../dom.js';
import { bytes, called, duration, number, plural } from '../format.js';
import { bar, graph } from '../graph.js';
import { repaired as tellRepaired } from '../health.js';
import { history } from '../history.js';
import { icon } from '../icons.js';
import { names } from '../names.js';
import { busy, complain, loading } from '../notes.js';
import { watchPeers, latency } from '../peering.js';
import { session } from '../session.js';
import { vitals } from '../vitals.js';
import { describe, line } from '../words.js';

export const title = 'Overview';

/** How often files that lack blocks are looked for while somebody looks: the node reads the length of every block. */
const LOOK_MS = 30000;
/** Files that are named. */
const NAMED = 5;

/**
 * What is true of all that is stored: {tone, head, text}. Nothing is promised that the node does not do, and only where
 * nothing is at risk it is `ok`. `lacking`: how many kept files lack blocks here; `kept`: how many there are. The others
 * that `status` counts are only known by their links.
 */
export function sentence(status, { lacking, kept }) {
  const { files: known, quarantined, peers, capacity, stored_bytes: stored } = status;
  const many = kept === 1 ? 'One file is' : `${number(kept)} files are`;
  if (lacking > 0) {
    return {
      tone: 'bad',
      head: `${plural(lacking, 'file')} here ${lacking === 1 ? 'lacks' : 'lack'} blocks.`,
      text: 'They are named below. Repair fetches what is missing from nodes that have it.',
    };
  }
  if (quarantined > 0) {
    return {
      tone: 'bad',
      head: `${plural(quarantined, 'block')} on this disk ${quarantined === 1 ? 'was' : 'were'} damaged and set aside.`,
      text: 'No wrong byte is served. “Check everything” looks whether files need them, and fetches good copies where a peer has some.',
    };
  }
  if (!known)
    return {
      tone: 'ok',
      head: 'Nothing is stored here yet.',
      text: session.may('write')
        ? 'Drop a file anywhere on this page: it is encrypted here, and you get a link to it.'
        : 'What others store here appears on this page. You are signed in to read.',
    };
  if (!kept) {
    return {
      tone: 'plain',
      head: 'This node keeps no file.',
      text: `${plural(known, 'file')} of others ${known === 1 ? 'is' : 'are'} known here by ${known === 1 ? 'its link' : 'their links'}, readable as long as somebody has ${known === 1 ? 'it' : 'them'}.${session.may('write') ? ' What you drop on this page is kept.' : ''}`,
    };
  }
  if (capacity && stored > capacity * 0.95) {
    return {
      tone: 'warn',
      head: `${many} kept, and the space is nearly used up.`,
      text: 'Delete files or raise storage.capacity; a file that does not fit is refused before anything changes.',
    };
  }
  const reach = peers
    ? `${plural(peers, 'peer')} can read from here now.`
    : 'No peer is connected, so nobody else can read them now.';
  return {
    tone: 'warn',
    head: `${many} kept on this disk, and no other node has promised a copy. ${reach}`,
    text: 'Copies are not made by themselves yet: others hold what they have read, for as long as they like. Losing this disk can lose the files.',
  };
}

function storage(status) {
  const { stored_bytes: all, cached_bytes: cached, capacity, disk_free: disk } = status;
  const kept = all - cached;
  const free = capacity ? Math.max(0, capacity - kept) : (disk ?? 0);
  const room = disk === null || disk === undefined ? free : Math.min(free, disk + cached);
  return [
    bar(
      [
        { label: 'kept', value: kept, kind: 'kept' },
        { label: 'cache, goes when room is needed', value: cached, kind: 'cache' },
        { label: 'free', value: room, kind: 'free' },
      ],
      kept + cached + room,
      bytes,
    ),
    h(
      'p',
      { class: 'hint' },
      capacity ? `The limit is ${bytes(capacity)} (storage.capacity).` : 'No limit is set; the disk is the limit.',
    ),
  ];
}

export function show({ body, head, signal }) {
  const truth = h('section', { class: 'truth', 'aria-label': 'State' }, loading());
  const store = h('section', { class: 'card' }, h('h2', {}, 'Storage'), loading());
  const curve = graph();
  const traffic = h('section', { class: 'card wide' }, h('h2', {}, 'Blocks to and from peers'), curve.element);
  const peerList = h('ul', { class: 'rows' });
  const peerWords = h('p', { class: 'hint' });
  const peers = h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Peers now'),
    peerWords,
    peerList,
    h('a', { href: '#/peers' }, 'All peers'),
  );
  const recent = h('ul', { class: 'rows' });
  const last = h(
    'section',
    { class: 'card' },
    h('h2', {}, 'Lately'),
    recent,
    h('a', { href: '#/activity' }, 'All activity'),
  );
  const risk = h('section', { class: 'card' }, h('h2', {}, 'At risk'), loading());
  const check = h(
    'button',
    { type: 'button', on: { click: () => verify(check, look) } },
    icon('shield'),
    'Check everything',
  );
  head.append(h('div', { class: 'buttons' }, session.may('write') && check));
  const facts = h('p', { class: 'hint facts' });
  fill(body, truth, h('div', { class: 'cards' }, traffic, store, peers, risk, last), facts);

  let told = '';
  let lacking = null;
  let lookedAt = null;
  /** Looks for files that lack blocks: {files, total}; null where the node could not say. */
  const look = async (asked = signal) => {
    try {
      lacking = await get(`/files?health=damaged&limit=${NAMED}`, asked);
      lookedAt = vitals.status?.files ?? null;
      draw();
      return lacking;
    } catch {
      // The banner tells, and it is asked again.
      return null;
    }
  };
  const again = setInterval(() => !document.hidden && look(), LOOK_MS);
  signal.addEventListener('abort', () => clearInterval(again), { once: true });
  const draw = () => {
    const { status } = vitals;
    curve.update(vitals.rates);
    if (!status) return;
    fill(store, h('h2', {}, 'Storage'), storage(status));
    // Which files are kept is counted with those that lack blocks: until then, nothing is said.
    if (!lacking) return;
    // Since then some came or went.
    if (lookedAt !== null && lookedAt !== status.files) {
      lookedAt = null;
      look();
    }
    const kept = lacking.kept ?? status.files;
    const { tone, head: first, text } = sentence(status, { lacking: lacking.total, kept });
    if (told !== first + text) {
      told = first + text;
      truth.className = `truth ${tone}`;
      fill(
        truth,
        icon({ ok: 'check', plain: 'link' }[tone] ?? 'warning'),
        h('div', {}, h('p', { class: 'lead' }, first), h('p', { class: 'hint' }, text)),
      );
    }
    const risky = [status.files, status.quarantined, JSON.stringify(lacking)].join();
    if (risk.dataset.drawn !== risky) {
      risk.dataset.drawn = risky;
      fill(risk, h('h2', {}, 'At risk'), atRisk({ ...status, kept }, lacking, look));
    }
    say(
      facts,
      `storgo ${status.version} · up ${duration(status.uptime_s)} · ${plural(kept, 'file')} kept${status.files > kept ? `, ${number(status.files - kept)} known by links` : ''} · ${plural(status.blocks, 'block')} · ${plural(status.announced, 'root')} announced${status.announce_queue ? `, ${status.announce_queue} waiting` : ''}`,
    );
  };
  const drawRecent = () => {
    const nothing = { serial: 0, words: { text: 'Nothing has happened since this page was opened.' } };
    const entries = history.entries.slice(0, 6).map((entry) => ({ serial: entry.serial, words: describe(entry) }));
    keyed(
      recent,
      entries.length ? entries : [nothing],
      ({ serial }) => serial,
      ({ words }) => h('li', {}, words.icon && icon(words.icon), h('span')),
      (element, { words }) => fill(element.lastChild, line(words)),
    );
  };
  vitals.addEventListener('change', draw, { signal });
  history.addEventListener('change', drawRecent, { signal });
  names.addEventListener('change', drawRecent, { signal });
  events.addEventListener(
    'event',
    ({ detail }) =>
      ['stored', 'removed', 'peer_connected', 'peer_lost', 'bad_block'].includes(detail.type) && vitals.now(),
    { signal },
  );
  watchPeers(signal, (list) => {
    say(peerWords, list.length ? `${plural(list.length, 'peer')} connected.` : 'No peer is connected.');
    keyed(
      peerList,
      list.slice(0, 5),
      ({ peer }) => peer,
      ({ peer }) => h('li', {}, h('span', { class: 'mono' }, `…${peer.slice(-8)}`), h('span', { class: 'hint' })),
      (element, peer) =>
        say(element.lastChild, `${peer.transport}${peer.relayed ? ', relayed' : ', direct'} · ${latency(peer)}`),
    );
  });
  draw();
  drawRecent();
  look();
}

function atRisk({ kept, quarantined }, lacking, look) {
  if (lacking?.total > 0) {
    const mend = h('button', { type: 'button', on: { click: () => repair(mend, look) } }, icon('shield'), 'Repair');
    return [
      h('p', {}, icon('warning'), ` ${plural(lacking.total, 'file')} with blocks missing here:`),
      named(lacking),
      session.may('write') && mend,
    ];
  }
  if (quarantined > 0) {
    return [
      h('p', {}, icon('warning'), ` ${plural(quarantined, 'damaged block')} set aside.`),
      h('p', { class: 'hint' }, 'Check everything: it looks whether files need them, and mends what a peer can mend.'),
    ];
  }
  if (!kept) return [h('p', {}, 'No file is kept here: nothing is at risk.')];
  return [
    h('p', {}, icon('warning'), ` ${plural(kept, 'file')} without a promised copy elsewhere.`),
    h(
      'p',
      { class: 'hint' },
      'No damaged block is known. Copies on other nodes are not made yet: keep a backup of what you cannot lose.',
    ),
  ];
}

/** The files that lack blocks, the first of them by name. */
const named = ({ files, total }) =>
  h(
    'ul',
    { class: 'rows' },
    files.map(({ cid, name }) => h('li', {}, h('a', { href: `#/file/${cid}`, class: 'break' }, called(name)))),
    total > files.length && h('li', { class: 'hint' }, `and ${number(total - files.length)} more`),
  );

async function repair(button, look) {
  button.disabled = true;
  const done = busy('What is missing is fetched from other nodes; this may take a while.');
  try {
    tellRepaired(await post('/repair').finally(done));
  } catch (problem) {
    complain(problem);
  }
  button.disabled = false;
  look();
}

/** What a check found of files. */
function lackingWords(lacking) {
  if (!lacking.total) return h('p', {}, 'No file here lacks blocks: none needs what was damaged.');
  return [
    h('p', {}, icon('warning'), ` ${plural(lacking.total, 'file')} ${lacking.total === 1 ? 'lacks' : 'lack'} blocks:`),
    named(lacking),
    h(
      'p',
      { class: 'hint' },
      'No peer that could be asked has them. Connect a node that has the file and repair, or store the file here once more.',
    ),
  ];
}

async function verify(button, look) {
  button.disabled = true;
  const done = busy('Every block is read and checked; this may take a while.');
  try {
    const { checked, bytes: size, bad, missing, repaired } = await post('/verify').finally(done);
    const lost = bad.length + missing.length - repaired.length;
    // Whatever view is shown by now.
    const lacking = await look(null);
    await ask({
      title: lost > 0 || lacking?.total > 0 ? 'Some blocks are not well' : 'Everything is well',
      body: [
        h(
          'ul',
          { class: 'rows' },
          h('li', {}, `${plural(checked, 'block')} read and checked, ${bytes(size)}`),
          h('li', {}, `${number(bad.length)} damaged`),
          h('li', {}, `${number(missing.length)} missing`),
          h('li', {}, `${number(repaired.length)} fetched anew from peers`),
        ),
        lacking && (lost > 0 || lacking.total > 0) && lackingWords(lacking),
      ],
    });
  } catch (problem) {
    complain(problem);
  }
  button.disabled = false;
  vitals.now();
}
