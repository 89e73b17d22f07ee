// The uploads of this browser: a queue of which some run at once. What the node has of a file it never gets again.

import { getSoon, Problem } from './api.js';
import { claim, inherit } from './claims.js';
import { fromHandle } from './gather.js';
import { history } from './history.js';
import * as kept from './kept.js';
import { names } from './names.js';
import { complain, note, speak } from './notes.js';
import { session } from './session.js';
import { Speed } from './speed.js';
import * as tus from './tus.js';
import { called } from './format.js';
import { Upload, elsewhere, facts, is } from './upload.js';

const AT_ONCE = 3;
const LONGEST_WAIT_MS = 30000;
/** What the browser calls a file that has changed or gone since it was chosen. */
const UNREADABLE = ['NotReadableError', 'NotFoundError'];

class Uploads extends EventTarget {
  list = [];
  /** Whose list it is. */
  #owner = null;
  /** Counts who was signed in: what one has asked for is not for the next. */
  #session = 0;
  #told = false;

  constructor() {
    super();
    session.addEventListener('change', () => {
      if (session.owner === this.#owner) return this.#next();
      // The session ended by itself: what it had begun waits for who signs in again.
      if (session.waiting === this.#owner && !session.owner) return this.#park();
      this.#owner = session.owner;
      this.#session += 1;
      this.#drop();
      if (session.may('write')) this.#restore();
    });
  }

  /** Queues files: [{file, name, handle, tree, stamp}]. `unsealed`: public. */
  add(files, { unsealed = false } = {}) {
    const fresh = files.map(
      (chosen) =>
        new Upload({ ...facts(chosen), handle: chosen.handle, name: chosen.name, unsealed, owner: this.#owner }),
    );
    this.list.push(...fresh);
    // First it is this tab's, then others can see it.
    for (const upload of fresh) this.#hold(upload).then(() => this.#keep(upload));
    if (fresh.length)
      speak(fresh.length === 1 ? `${fresh[0].called} is being stored.` : `${fresh.length} things are being stored.`);
    this.#next();
  }

  pause(upload) {
    upload.state = 'paused';
    upload.stop?.abort();
    this.#keep(upload);
    this.#next();
  }

  /** Goes on: after a pause, a failure, or where the browser wants to be asked for the file. */
  async resume(upload) {
    if (upload.state === 'locked') {
      try {
        if ((await upload.handle.requestPermission({ mode: 'read' })) === 'granted') await this.#reread(upload);
      } catch {
        Object.assign(upload, { state: 'lost', problem: null });
      }
    }
    if (!upload.file && !upload.whole) return this.#change();
    upload.again = upload.state === 'failed';
    upload.state = 'waiting';
    upload.problem = null;
    this.#keep(upload);
    return this.#next();
  }

  /** The file or folder of a lost upload, chosen again. Where it cannot be that, the upload says so. */
  rejoin(upload, chosen) {
    const same = is(upload, chosen);
    if (!same && chosen.name !== upload.name) {
      upload.problem = new Problem({
        detail: `${called(chosen.name)} is another ${upload.tree ? 'folder' : 'file'} than ${upload.called} was when this began.`,
        hint: `Choose ${upload.called} as it was, or give this upload up and store it anew.`,
      });
      speak(upload.problem.message);
      return this.#change();
    }
    if (same) Object.assign(upload, facts(chosen));
    else this.#anew(upload, chosen);
    Object.assign(upload, { handle: null, owner: this.#owner, foreign: false });
    return this.resume(upload);
  }

  /** Ends an upload and throws away what has arrived, or takes a finished one off the list. */
  async dismiss(upload) {
    const { state } = upload;
    const mine = this.#session;
    this.#take(upload);
    this.#next();
    await this.#forget(upload);
    if (state === 'stored' || !upload.id) return;
    try {
      if (upload.sent >= upload.size) {
        // Asking for the offset ends what still writes: what is not whole now never will be.
        await tus.offset(upload.id);
        if (arrived(await tus.look(upload.id))) return tooLate(upload);
      }
      await tus.end(upload.id);
    } catch (problem) {
      // The node is away: there, it goes when it has expired. Or it has gone already.
      if (problem.code === 'offline' || [404, 410].includes(problem.status)) return;
      if (this.#session === mine) await this.#refused(upload, problem, mine);
    }
  }

  /** The node did not let an upload be given up: it says so, and what is still there is shown again. */
  async #refused(upload, problem, mine) {
    const told = await tus.look(upload.id).catch(() => null);
    if (this.#session !== mine) return;
    if (arrived(told)) {
      tooLate(upload);
      return;
    }
    if (told && !this.list.some(({ id }) => id === upload.id)) this.list.push(elsewhere(told));
    if (problem.status === 423) {
      const hint = 'Whoever sends it can give it up; or try again when they have stopped.';
      note(`${upload.called} is being sent by somebody else now.`, 'bad', hint);
    } else complain(problem, `${upload.called} could not be given up: `);
    this.#next();
  }

  /** Takes all that are stored off the list: of those, nothing else is left to end. */
  dismissFinished() {
    const stored = this.list.filter(({ state }) => state === 'stored');
    this.list = this.list.filter(({ state }) => state !== 'stored');
    for (const upload of stored) upload.state = 'gone';
    this.#next();
  }

  /** How many wait for their owner to sign in again. */
  get parked() {
    return session.owner ? 0 : this.list.filter(({ file, state }) => file && state === 'waiting').length;
  }

  /** Stops all, and forgets none. */
  #park() {
    for (const upload of this.list) {
      if (upload.state === 'sending' || upload.state === 'storing') upload.state = 'waiting';
      upload.stop?.abort();
    }
    this.#change();
  }

  /** Off the list, whatever it does. */
  #take(upload) {
    upload.state = 'gone';
    upload.stop?.abort();
    upload.watch?.abort();
    this.list = this.list.filter((other) => other !== upload);
  }

  #drop() {
    for (const upload of this.list) {
      this.#take(upload);
      this.#release(upload);
    }
    this.#change();
  }

  /** Makes an upload this tab's. Answers whether it is. */
  async #hold(upload) {
    upload.held ??= claim(upload.key);
    if (await upload.held) return true;
    upload.held = null;
    return false;
  }

  #release(upload) {
    upload.held?.then((release) => release?.());
    upload.held = null;
  }

  /** Remembers an upload across a reload, unless it was given up meanwhile. */
  #keep(upload) {
    return upload.state === 'gone' ? null : kept.keep(upload);
  }

  async #forget(upload) {
    await kept.forget(upload.key);
    this.#release(upload);
  }

  /** After a reload: what this browser remembers, and what the node has of others. */
  async #restore() {
    const mine = this.#session;
    const [ours, theirs] = await Promise.all([kept.allOf(this.#owner), getSoon('/uploads').catch(() => null)]);
    const known = new Map((theirs ?? []).map((told) => [told.id, told]));
    for (const memory of ours.sort((a, b) => a.at - b.at)) {
      if (this.#session !== mine) return;
      const upload = new Upload(memory);
      const told = theirs ? (known.get(memory.id) ?? null) : undefined;
      if (await this.#hold(upload)) await this.#recall(upload, memory, told);
      else this.#follow(upload);
      known.delete(memory.id);
      if (this.#session !== mine) this.#take(upload);
      if (upload.state === 'gone') this.#release(upload);
      else this.list.push(upload);
    }
    if (this.#session !== mine) return;
    for (const told of known.values()) {
      if (told.state === 'receiving' || told.state === 'failed') this.list.push(elsewhere(told));
    }
    this.#next();
  }

  /** Goes on from what was remembered. `told`: what the node says of it; null: nothing; undefined: no answer. */
  async #recall(upload, memory, told) {
    Object.assign(upload, memory);
    if (told === null) upload.id = null;
    if (told?.state === 'stored') {
      upload.state = 'gone';
      await this.#forget(upload);
      return;
    }
    upload.sent = told?.offset ?? 0;
    upload.whole = Boolean(told) && told.offset >= told.length;
    upload.state = 'waiting';
    if (!upload.whole) await this.#findFile(upload);
    if (memory.paused && upload.state === 'waiting') upload.state = 'paused';
    if (told?.state === 'failed') {
      upload.state = 'failed';
      upload.problem = new Problem({ detail: told.error, hint: told.hint ?? '' });
    }
  }

  /** Waits until the tab that has an upload has ended it or is closed. */
  async #follow(upload) {
    upload.state = 'elsewhere';
    upload.watch = new AbortController();
    const held = inherit(upload.key, upload.watch.signal);
    try {
      await held;
    } catch {
      return;
    }
    upload.held = held;
    const memory = await kept.one(upload.key);
    // A node that is away is asked again by whoever sends.
    const told = memory?.id && (await tus.look(memory.id).catch(({ status }) => (status === 404 ? null : undefined)));
    if (memory && upload.state !== 'gone') await this.#recall(upload, memory, told);
    else this.#take(upload);
    if (upload.state === 'gone') {
      this.#take(upload);
      this.#release(upload);
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
    const chosen = await fromHandle(upload.handle);
    if (is(upload, chosen)) Object.assign(upload, facts(chosen));
    else this.#anew(upload, chosen);
  }

  /** From the beginning: bytes of what it is now do not go with bytes of what it was. */
  #anew(upload, chosen) {
    if (upload.id) tus.end(upload.id).catch(() => {});
    if (upload.sent) note(`${upload.called} may have changed since the upload began: it is sent from its beginning.`);
    Object.assign(upload, facts(chosen), { id: null, sent: 0, whole: false });
  }

  #next() {
    let running = this.list.filter(({ stop }) => stop).length;
    for (const upload of session.may('write') ? this.list : []) {
      if (running >= AT_ONCE) break;
      if (upload.state !== 'waiting' || upload.stop || !(upload.file || upload.whole)) continue;
      this.#start(upload);
      running += 1;
    }
    this.#change();
  }

  async #start(upload) {
    upload.stop = new AbortController();
    upload.state = 'sending';
    upload.speed = new Speed();
    try {
      if (await this.#hold(upload)) await this.#send(upload);
      else this.#follow(upload);
    } catch (problem) {
      if (problem.name !== 'AbortError' && upload.state !== 'gone') this.#fail(upload, problem);
    }
    upload.stop = null;
    this.#next();
  }

  #fail(upload, problem) {
    upload.state = 'failed';
    upload.again = false;
    upload.problem = problem;
    if (problem instanceof tus.Unreadable || UNREADABLE.includes(problem.name)) {
      upload.state = upload.handle ? 'locked' : 'lost';
      upload.problem =
        upload.file &&
        new Problem({
          detail: 'It cannot be read: it was changed, moved or deleted after it was chosen.',
          hint: `${upload.handle ? 'Go on' : 'Choose it again'} to store it as it is now.`,
        });
      upload.file = null;
    }
    const { message, hint } = upload.problem ?? problem;
    history.add({ type: 'failed', text: `${upload.called} could not be stored: ${message}`, hint });
    speak(`${upload.called} could not be stored.`);
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
          Object.assign(upload, { id: null, sent: 0, whole: false });
          if (!upload.file) throw new tus.Unreadable('The node has forgotten what had arrived.');
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
    upload.speed = new Speed();
    const begun = Boolean(upload.id);
    if (!begun) await this.#create(upload, signal);
    // A new one has nothing to tell, but that of an empty file: that is stored at once.
    if (begun || upload.size === 0) {
      const told = await tus.look(upload.id, signal);
      if (told.state === 'stored') return this.#stored(upload, told.cid);
      // An empty last part makes the node try again to store what it could not.
      if (told.state === 'failed' && !upload.again) throw new Problem({ status: 500, detail: told.error });
      this.#progress(upload, await tus.offset(upload.id, signal));
      upload.whole = upload.sent >= upload.size;
    }
    for (;;) {
      if (!upload.file && !upload.whole) throw new tus.Unreadable('The node has less than it had.');
      const { offset, cid } = await tus.send(upload.id, upload.file ?? new Blob(), upload.sent, {
        signal,
        progress: (sent) => this.#progress(upload, sent),
      });
      this.#progress(upload, offset);
      // The answer to the last part comes when all is stored.
      if (cid) return this.#stored(upload, cid);
    }
  }

  async #create(upload, signal) {
    // Not to be broken off: what the node has begun must be known, to be ended or gone on with.
    const id = await tus.create(upload.size, {
      filename: upload.name,
      filetype: upload.tree ? '' : upload.type,
      mtime: upload.mtime,
      tree: upload.tree ? 'true' : '',
      public: upload.unsealed ? 'true' : '',
    });
    if (upload.state === 'gone') await tus.end(id).catch(() => {});
    else Object.assign(upload, { id, sent: 0, whole: false });
    await this.#keep(upload);
    signal.throwIfAborted();
  }

  #stored(upload, cid) {
    upload.state = 'stored';
    upload.sent = upload.size;
    upload.cid = cid;
    names.note(cid, upload.name);
    // The node need not remember it either: it remembers a thousand.
    const { id } = upload;
    this.#forget(upload)
      .then(() => tus.end(id))
      .catch(() => {});
    speak(`${upload.called} is stored.`);
    this.dispatchEvent(new CustomEvent('stored', { detail: upload }));
  }

  #progress(upload, sent) {
    upload.sent = Math.min(sent, upload.size);
    upload.stalled = null;
    upload.speed.at(upload.sent);
    if (upload.state === 'sending' || upload.state === 'storing')
      upload.state = upload.sent >= upload.size ? 'storing' : 'sending';
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

const arrived = (told) => ['storing', 'stored'].includes(told?.state);

/** Says that giving up came too late. */
export function tooLate({ called: name }) {
  note(`All of ${name} had arrived: it is stored.`, 'bad', 'Delete it from the files if it shall not be there.');
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
