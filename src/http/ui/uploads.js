// The uploads of this browser: a queue of which a few are sent at a time.

import { activityLog } from './activity-log.js';
import { getQuickly } from './api.js';
import { fileNames } from './file-names.js';
import { displayName } from './format.js';
import { ownProblem } from './problem.js';
import { session } from './session.js';
import { Speed } from './speed.js';
import { announce, reportProblem, showToast } from './toasts.js';
import * as tus from './tus.js';
import { tryLock, waitForLock } from './upload-lock.js';
import * as uploadStore from './upload-store.js';
import { transfer } from './upload-transfer.js';
import { Upload, findFile, foreignUpload, isSameSource, readHandle, recordProblem, setSource, sourceFields } from './upload.js';

const MAX_PARALLEL = 3;
const NOTIFY_MS = 60;
/** Errors of a file that has changed or gone since it was chosen. */
const UNREADABLE = ['NotReadableError', 'NotFoundError'];

class Uploads extends EventTarget {
  list = [];
  /** The user whose list it is. */
  #owner = null;
  /** Number of the sign-in. Work that was started for one user must not end up in the list of the next. */
  #generation = 0;
  #notifyTimer = null;

  constructor() {
    super();
    session.addEventListener('change', () => {
      if (session.owner === this.#owner) return this.#startNext();
      // The session expired: its uploads wait until the same user signs in again.
      if (session.expiredOwner === this.#owner && !session.owner) return this.#suspend();
      this.#owner = session.owner;
      this.#generation += 1;
      this.#removeAll();
      if (session.can('write')) this.#restore();
    });
  }

  /** Queues files, as sources from file-source.js. `unsealed`: public, not encrypted. */
  add(sources, { unsealed = false } = {}) {
    const added = sources.map(
      (source) =>
        new Upload({ ...sourceFields(source), handle: source.handle, name: source.name, unsealed, owner: this.#owner }),
    );
    this.list.push(...added);
    // Locked before other tabs can see it.
    for (const upload of added) this.#lock(upload).then(() => this.#save(upload));
    if (added.length === 1) announce(`Uploading ${added[0].displayName}.`);
    else if (added.length) announce(`Uploading ${added.length} files.`);
    this.#startNext();
  }

  pause(upload) {
    upload.state = 'paused';
    upload.abort?.abort();
    this.#save(upload);
    this.#startNext();
  }

  /** Resumes a paused upload, retries a failed one, or asks the browser for permission to read the file. */
  async resume(upload) {
    if (upload.state === 'needs_permission') {
      try {
        if ((await upload.handle.requestPermission({ mode: 'read' })) === 'granted') await readHandle(upload);
      } catch {
        Object.assign(upload, { state: 'needs_file', problem: null });
      }
    }
    if (!upload.file && !upload.allReceived) return this.#notify();
    upload.retryStoring = upload.state === 'failed';
    upload.state = 'queued';
    upload.problem = null;
    this.#save(upload);
    return this.#startNext();
  }

  /** Continues an upload with the file or folder that the user chose again. */
  provideFile(upload, source) {
    if (!isSameSource(upload, source) && source.name !== upload.name) {
      const kind = upload.tree ? 'folder' : 'file';
      upload.problem = ownProblem(
        `${displayName(source.name)} is a different ${kind}.`,
        `Choose ${upload.displayName}, or cancel this upload.`,
      );
      announce(upload.problem.message);
      return this.#notify();
    }
    setSource(upload, source);
    Object.assign(upload, { handle: null, owner: this.#owner, foreign: false });
    return this.resume(upload);
  }

  /** Takes an upload off the list. If it is not stored yet, this cancels it and deletes what has arrived. */
  async remove(upload) {
    const { state } = upload;
    const generation = this.#generation;
    this.#detach(upload);
    this.#startNext();
    await this.#forget(upload);
    if (state === 'stored' || !upload.id) return;
    try {
      if (upload.sent >= upload.size) {
        // Reading the offset ends a request that still sends. An upload that is incomplete after that stays incomplete.
        await tus.getOffset(upload.id);
        if (isComplete(await tus.getRecord(upload.id))) return showTooLate(upload);
      }
      await tus.terminate(upload.id);
    } catch (problem) {
      // If the node is offline, the upload expires there. 404 and 410: it has gone already.
      if (problem.code === 'offline' || [404, 410].includes(problem.status)) return;
      if (this.#generation === generation) await this.#cancelFailed(upload, problem, generation);
    }
  }

  /** The node refused to delete an upload: show it again, and why. */
  async #cancelFailed(upload, problem, generation) {
    const record = await tus.getRecord(upload.id).catch(() => null);
    if (this.#generation !== generation) return;
    if (isComplete(record)) {
      showTooLate(upload);
      return;
    }
    if (record && !this.list.some(({ id }) => id === upload.id)) this.list.push(foreignUpload(record));
    if (problem.status === 423)
      showToast(`${upload.displayName} is being uploaded elsewhere.`, 'bad', 'Cancel it there, or try again later.');
    else reportProblem(problem, `Could not cancel ${upload.displayName}: `);
    this.#startNext();
  }

  /** Takes all stored uploads off the list. */
  removeStored() {
    const stored = this.list.filter(({ state }) => state === 'stored');
    this.list = this.list.filter(({ state }) => state !== 'stored');
    for (const upload of stored) upload.state = 'removed';
    this.#startNext();
  }

  /** The number of uploads that wait for the user to sign in again. */
  get suspended() {
    return session.owner ? 0 : this.list.filter(({ file, state }) => file && state === 'queued').length;
  }

  /** Stops all transfers and keeps the uploads. */
  #suspend() {
    for (const upload of this.list) {
      if (upload.state === 'sending' || upload.state === 'storing') upload.state = 'queued';
      upload.abort?.abort();
    }
    this.#notify();
  }

  /** Takes an upload off the list and stops its transfer. */
  #detach(upload) {
    upload.state = 'removed';
    upload.abort?.abort();
    upload.lockWait?.abort();
    this.list = this.list.filter((other) => other !== upload);
  }

  #removeAll() {
    for (const upload of this.list) {
      this.#detach(upload);
      this.#unlock(upload);
    }
    this.#notify();
  }

  /** Locks an upload for this tab. Resolves to false if another tab has the lock. */
  async #lock(upload) {
    upload.lock ??= tryLock(upload.key);
    if (await upload.lock) return true;
    upload.lock = null;
    return false;
  }

  #unlock(upload) {
    upload.lock?.then((release) => release?.());
    upload.lock = null;
  }

  /** Saves an upload for the next load of the page, unless it was removed meanwhile. */
  #save(upload) {
    return upload.state === 'removed' ? null : uploadStore.save(upload);
  }

  async #forget(upload) {
    await uploadStore.remove(upload.key);
    this.#unlock(upload);
  }

  /** After a reload: lists the uploads that this browser saved, and those that the node has from elsewhere. */
  async #restore() {
    const generation = this.#generation;
    const [saved, records] = await Promise.all([
      uploadStore.loadAll(this.#owner),
      getQuickly('/uploads').catch(() => null),
    ]);
    const byId = new Map((records ?? []).map((record) => [record.id, record]));
    for (const fields of saved.sort((a, b) => a.at - b.at)) {
      if (this.#generation !== generation) return;
      const upload = new Upload(fields);
      const record = records ? (byId.get(fields.id) ?? null) : undefined;
      if (await this.#lock(upload)) await this.#restoreOne(upload, fields, record);
      else this.#followOtherTab(upload);
      byId.delete(fields.id);
      if (this.#generation !== generation) this.#detach(upload);
      if (upload.state === 'removed') this.#unlock(upload);
      else this.list.push(upload);
    }
    if (this.#generation !== generation) return;
    for (const record of byId.values()) {
      if (record.state === 'receiving' || record.state === 'failed') this.list.push(foreignUpload(record));
    }
    this.#startNext();
  }

  /** `record`: the node's record of the upload; null if the node has none; undefined if the node did not answer. */
  async #restoreOne(upload, fields, record) {
    Object.assign(upload, fields);
    if (record === null) upload.id = null;
    if (record?.state === 'stored') {
      upload.state = 'removed';
      await this.#forget(upload);
      return;
    }
    upload.sent = record?.offset ?? 0;
    upload.allReceived = Boolean(record) && record.offset >= record.length;
    upload.state = 'queued';
    if (!upload.allReceived) await findFile(upload);
    if (fields.paused && upload.state === 'queued') upload.state = 'paused';
    if (record?.state === 'failed') {
      upload.state = 'failed';
      upload.problem = recordProblem(record);
    }
  }

  /** Waits until the tab that sends an upload has finished or is closed, then takes over. */
  async #followOtherTab(upload) {
    upload.state = 'other_tab';
    upload.lockWait = new AbortController();
    const lock = waitForLock(upload.key, upload.lockWait.signal);
    try {
      await lock;
    } catch {
      return;
    }
    upload.lock = lock;
    const fields = await uploadStore.load(upload.key);
    // If the node is offline, the transfer asks again.
    const record =
      fields?.id && (await tus.getRecord(fields.id).catch(({ status }) => (status === 404 ? null : undefined)));
    if (fields && upload.state !== 'removed') await this.#restoreOne(upload, fields, record);
    else this.#detach(upload);
    if (upload.state === 'removed') {
      this.#detach(upload);
      this.#unlock(upload);
    }
    this.#startNext();
  }

  /** Starts queued uploads until the limit of parallel transfers is reached. */
  #startNext() {
    let running = this.list.filter(({ abort }) => abort).length;
    for (const upload of session.can('write') ? this.list : []) {
      if (running >= MAX_PARALLEL) break;
      if (upload.state !== 'queued' || upload.abort || !(upload.file || upload.allReceived)) continue;
      this.#run(upload);
      running += 1;
    }
    this.#notify();
  }

  async #run(upload) {
    upload.abort = new AbortController();
    upload.state = 'sending';
    upload.speed = new Speed();
    try {
      if (await this.#lock(upload)) {
        const onChange = () => this.#notify();
        const onCreated = () => this.#save(upload);
        this.#stored(upload, await transfer(upload, upload.abort.signal, { onChange, onCreated }));
      } else this.#followOtherTab(upload);
    } catch (problem) {
      if (problem.name !== 'AbortError' && upload.state !== 'removed') this.#failed(upload, problem);
    }
    upload.abort = null;
    this.#startNext();
  }

  #stored(upload, cid) {
    upload.state = 'stored';
    upload.sent = upload.size;
    upload.cid = cid;
    fileNames.set(cid, upload.name);
    // Delete the record on the node, which keeps a thousand of them.
    const { id } = upload;
    this.#forget(upload)
      .then(() => tus.terminate(id))
      .catch(() => {});
    announce(`${upload.displayName} is stored.`);
  }

  #failed(upload, problem) {
    upload.state = 'failed';
    upload.retryStoring = false;
    upload.problem = problem;
    if (problem instanceof tus.UnreadableFile || UNREADABLE.includes(problem.name)) {
      upload.state = upload.handle ? 'needs_permission' : 'needs_file';
      upload.problem =
        upload.file &&
        ownProblem(
          'The file has changed, moved or been deleted since it was chosen.',
          `${upload.handle ? 'Resume' : 'Choose it again'} to upload its current content.`,
        );
      upload.file = null;
    }
    const { message, hint } = upload.problem ?? problem;
    activityLog.add({ type: 'failed', text: `Could not store ${upload.displayName}: ${message}`, hint });
    announce(`Could not store ${upload.displayName}.`);
  }

  /** Dispatches `change` at most once in a while. */
  #notify() {
    this.#notifyTimer ??= setTimeout(() => {
      this.#notifyTimer = null;
      this.dispatchEvent(new Event('change'));
    }, NOTIFY_MS);
  }
}

/** Whether the node has all of an upload, so that it cannot be cancelled any more. */
const isComplete = (record) => ['storing', 'stored'].includes(record?.state);

/** Tells the user that an upload was complete before it could be cancelled. */
export function showTooLate({ displayName: name }) {
  showToast(`${name} was already uploaded and is stored.`, 'bad', 'Delete it under “Files” if you do not need it.');
}

export const uploads = new Uploads();
