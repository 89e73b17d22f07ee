// The uploads of this browser: a queue of which some run at once. What the node has of a file it never gets again.

import { get, Problem } from './api.js';
import { fromHandle } from './gather.js';
import { history } from './history.js';
import * as kept from './kept.js';
import { names } from './names.js';
import { speak } from './notes.js';
import { session } from './session.js';
import { Speed } from './speed.js';
import * as tus from './tus.js';

const AT_ONCE = 3;
const LONGEST_WAIT_MS = 30000;

/**
 * One upload. `state`: waiting | sending | paused | storing | stored | failed |
 * elsewhere (another tab sends it) | locked (the browser wants a click to read the file) | lost (the file must be chosen again).
 */
class Upload {
  id = null;
  sent = 0;
  state = 'waiting';
  problem = null;
  cid = null;
  /** Why it does not move though it runs: the node is away, for example. */
  stalled = null;
  speed = new Speed();
  stop = null;

  constructor(fields) {
    this.key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    Object.assign(this, fields);
  }

  /** Whether it still has something before it. */
  get open() {
    return !['stored', 'failed'].includes(this.state);
  }
}

class Uploads extends EventTarget {
  list = [];
  #told = false;

  constructor() {
    super();
    session.addEventListener('change', () => (session.scope ? this.#restore() : this.#drop()));
  }

  /** Queues files: [{file, name, handle}]. `unsealed`: public. */
  add(files, { unsealed = false } = {}) {
    const fresh = files.map(
      ({ file, name, handle, tree }) =>
        new Upload({ file, handle, name, tree, size: file.size, type: file.type, mtime: changed(file), unsealed }),
    );
    this.list.push(...fresh);
    for (const upload of fresh) kept.keep(upload);
    if (fresh.length)
      speak(fresh.length === 1 ? `${fresh[0].name} is being stored.` : `${fresh.length} things are being stored.`);
    this.#next();
  }

  pause(upload) {
    upload.state = 'paused';
    upload.stop?.abort();
    kept.keep(upload);
    this.#next();
  }

  /** Goes on: after a pause, a failure, or where the browser wants to be asked for the file. */
  async resume(upload) {
    if (upload.state === 'locked' && (await upload.handle.requestPermission({ mode: 'read' })) === 'granted') {
      await this.#reread(upload);
    }
    if (!upload.file) return this.#change();
    upload.state = 'waiting';
    upload.problem = null;
    kept.keep(upload);
    return this.#next();
  }

  /** The file of a lost upload, chosen again. Answers why it is not that file, or null. */
  rejoin(upload, file) {
    if (file.size !== upload.size) return 'This has another size than what the upload began with.';
    if (upload.mtime && changed(file) !== upload.mtime) return 'This was changed after the upload began.';
    upload.file = file;
    kept.keep(upload);
    this.resume(upload);
    return null;
  }

  /** Ends an upload and throws away what has arrived, or takes a finished one off the list. */
  async dismiss(upload) {
    const open = upload.state !== 'stored';
    upload.state = 'gone';
    upload.stop?.abort();
    this.list = this.list.filter((other) => other !== upload);
    kept.forget(upload.key);
    this.#next();
    if (open && upload.id) await tus.end(upload.id).catch(() => {});
  }

  dismissFinished() {
    for (const upload of this.list.filter(({ state }) => state === 'stored')) this.dismiss(upload);
  }

  #drop() {
    for (const upload of this.list) upload.stop?.abort();
    this.list = [];
    this.#change();
  }

  /** After a reload: what this browser remembers, and what the node has of others. */
  async #restore() {
    if (!session.may('write')) return;
    const [ours, theirs] = await Promise.all([kept.all(), get('/uploads').catch(() => [])]);
    const known = new Map(theirs.map((upload) => [upload.id, upload]));
    for (const memory of ours.sort((a, b) => a.at - b.at)) {
      if (this.list.some(({ key }) => key === memory.key)) continue;
      const told = known.get(memory.id);
      known.delete(memory.id);
      const upload = new Upload(memory);
      if (told?.state === 'stored') {
        kept.forget(upload.key);
        continue;
      }
      if (memory.id && !told) upload.id = null;
      upload.sent = told?.offset ?? 0;
      await this.#findFile(upload);
      if (memory.paused && upload.state === 'waiting') upload.state = 'paused';
      this.list.push(upload);
    }
    for (const told of known.values()) {
      if (told.state === 'receiving' || told.state === 'failed') this.list.push(elsewhere(told));
    }
    this.#next();
  }

  async #findFile(upload) {
    if (upload.file) return;
    upload.state = 'lost';
    if (!upload.handle) return;
    try {
      upload.state = 'locked';
      if ((await upload.handle.queryPermission({ mode: 'read' })) !== 'granted') return;
      await this.#reread(upload);
      upload.state = 'waiting';
    } catch {
      upload.state = 'lost';
    }
  }

  /** Reads a handle again. What has changed meanwhile is another file: it is sent from its beginning. */
  async #reread(upload) {
    const { file } = await fromHandle(upload.handle);
    if (file.size !== upload.size || changed(file) !== upload.mtime) {
      if (upload.id) tus.end(upload.id).catch(() => {});
      Object.assign(upload, { id: null, sent: 0, size: file.size, mtime: changed(file) });
    }
    upload.file = file;
  }

  #next() {
    for (const upload of this.list) {
      if (this.list.filter(({ stop }) => stop).length >= AT_ONCE) break;
      if (upload.state === 'waiting' && !upload.stop && upload.file) this.#start(upload);
    }
    this.#change();
  }

  async #start(upload) {
    upload.stop = new AbortController();
    upload.state = 'sending';
    upload.speed = new Speed();
    try {
      await alone(upload, () => this.#send(upload));
    } catch (problem) {
      if (problem.name !== 'AbortError' && upload.state !== 'gone') this.#fail(upload, problem);
    }
    upload.stop = null;
    this.#next();
  }

  #fail(upload, problem) {
    // A file that has changed or gone since it was chosen cannot be read any more.
    const unreadable = problem.name === 'NotReadableError' || problem.name === 'NotFoundError';
    upload.state = unreadable ? 'lost' : 'failed';
    upload.problem = problem;
    history.add({ type: 'failed', text: `${upload.name} could not be stored: ${problem.message}`, hint: problem.hint });
    speak(`${upload.name} could not be stored.`);
  }

  async #send(upload) {
    const { signal } = upload.stop;
    let wait = 500;
    for (;;) {
      try {
        await this.#attempt(upload, signal);
        return;
      } catch (problem) {
        if (signal.aborted) throw new DOMException('stopped', 'AbortError');
        if (problem.status === 404 || problem.status === 410) {
          // It has expired: from the beginning, then.
          if (!upload.id) throw problem;
          upload.id = null;
        } else if (!tus.passing(problem)) {
          throw problem;
        }
        upload.stalled = problem.message;
        this.#change();
      }
      await pause(wait, signal);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  }

  async #attempt(upload, signal) {
    if (upload.id) {
      if (await this.#settled(upload, signal)) return;
      upload.sent = await tus.offset(upload.id, signal);
    } else {
      upload.id = await tus.create(upload.size, {
        filename: upload.name,
        filetype: upload.tree ? '' : upload.type,
        mtime: upload.mtime,
        tree: upload.tree ? 'true' : '',
        public: upload.unsealed ? 'true' : '',
      });
      upload.sent = 0;
      await kept.keep(upload);
      if (upload.size === 0 && (await this.#settled(upload, signal))) return;
    }
    upload.speed.at(upload.sent);
    for (;;) {
      const { offset, cid } = await tus.send(upload.id, upload.file, upload.sent, {
        signal,
        progress: (sent) => this.#progress(upload, sent),
      });
      upload.stalled = null;
      this.#progress(upload, offset);
      if (cid) return this.#stored(upload, cid);
      if (offset >= upload.size) break;
    }
    while (!(await this.#settled(upload, signal))) await pause(500, signal);
  }

  /** Whether the node says that all of it is stored. */
  async #settled(upload, signal) {
    const told = await tus.look(upload.id, signal);
    if (told.state === 'failed') {
      throw new Problem({ status: 500, detail: told.error, hint: told.hint ?? '' });
    }
    if (told.state === 'stored') this.#stored(upload, told.cid);
    return told.state === 'stored';
  }

  #stored(upload, cid) {
    upload.state = 'stored';
    upload.sent = upload.size;
    upload.cid = cid;
    names.note(cid, upload.name);
    kept.forget(upload.key);
    speak(`${upload.name} is stored.`);
    this.dispatchEvent(new CustomEvent('stored', { detail: upload }));
  }

  #progress(upload, sent) {
    upload.sent = Math.min(sent, upload.size);
    upload.speed.at(upload.sent);
    if (upload.sent >= upload.size && upload.state === 'sending') upload.state = 'storing';
    this.#change();
  }

  /** Tells of changes at most once per frame. */
  #change() {
    if (this.#told) return;
    this.#told = true;
    setTimeout(() => {
      this.#told = false;
      this.dispatchEvent(new Event('change'));
    }, 60);
  }
}

/** An upload that the node has and this browser knows nothing of. */
function elsewhere({ id, name, length, offset, state, error, hint }) {
  return new Upload({
    id,
    name: name ?? 'unnamed',
    size: length,
    sent: offset,
    state: state === 'failed' ? 'failed' : 'lost',
    foreign: true,
    problem: error && new Problem({ detail: error, hint: hint ?? '' }),
  });
}

/** When a file was changed, seconds since 1970; of a folder, nothing is known. */
const changed = (file) => (file.lastModified ? Math.floor(file.lastModified / 1000) : null);

/** Runs `work` where no other tab does the same upload. */
async function alone(upload, work) {
  if (!navigator.locks || !upload.id) return work();
  return navigator.locks.request(`storgo-upload-${upload.id}`, { ifAvailable: true }, (lock) => {
    if (lock) return work();
    upload.state = 'elsewhere';
    return null;
  });
}

function pause(ms, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        failed(new DOMException('stopped', 'AbortError'));
      },
      { once: true },
    );
  });
}

export const uploads = new Uploads();
