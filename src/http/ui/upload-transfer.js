// Sends one upload to the node. Bytes that the node already has are not sent again.

import { Speed } from './speed.js';
import * as tus from './tus.js';
import { recordProblem } from './upload.js';

const MAX_DELAY_MS = 30000;

/**
 * Sends `upload` until the file is stored and resolves to its CID. Retries failures that may pass.
 * `onChange()`: progress was made, or the upload stalled. `onCreated()`: the node has created the upload, or it was
 * cancelled meanwhile.
 */
export async function transfer(upload, signal, { onChange, onCreated }) {
  let delay = 500;
  for (;;) {
    try {
      return await attempt(upload, signal, onChange, onCreated);
    } catch (problem) {
      if (signal.aborted) throw new DOMException('aborted', 'AbortError');
      if (problem.status === 404 || problem.status === 410) {
        // The upload has expired on the node: start over.
        if (!upload.id) throw problem;
        Object.assign(upload, { id: null, sent: 0, allReceived: false });
        if (!upload.file) throw new tus.UnreadableFile('the upload expired on the node');
      } else if (!tus.isTransient(problem)) {
        throw problem;
      }
      upload.stallReason = problem.message;
      onChange();
    }
    await sleep(delay, signal);
    delay = Math.min(delay * 2, MAX_DELAY_MS);
  }
}

async function attempt(upload, signal, onChange, onCreated) {
  upload.speed = new Speed();
  const progress = (sent) => {
    setProgress(upload, sent);
    onChange();
  };
  const resumed = Boolean(upload.id);
  if (!resumed) await create(upload, signal, onCreated);
  // The node stores an empty file when the upload is created, so there may be a result without sending anything.
  if (resumed || upload.size === 0) {
    const record = await tus.getRecord(upload.id, signal);
    if (record.state === 'stored') return record.cid;
    // After a failure, an empty last part makes the node try again to store the file.
    if (record.state === 'failed' && !upload.retryStoring)
      throw Object.assign(recordProblem(record), { status: 500 });
    progress(await tus.getOffset(upload.id, signal));
    upload.allReceived = upload.sent >= upload.size;
  }
  for (;;) {
    if (!upload.file && !upload.allReceived) throw new tus.UnreadableFile('the node has less than before');
    const { offset, cid } = await tus.sendPart(upload.id, upload.file ?? new Blob(), upload.sent, {
      signal,
      onProgress: progress,
    });
    progress(offset);
    // The node answers the last part when the file is stored.
    if (cid) return cid;
  }
}

async function create(upload, signal, onCreated) {
  // Not abortable: the id must be known, to resume or delete the upload.
  const id = await tus.create(upload.size, {
    filename: upload.name,
    filetype: upload.tree ? '' : upload.type,
    mtime: upload.mtime,
    tree: upload.tree ? 'true' : '',
    public: upload.unsealed ? 'true' : '',
  });
  if (upload.state === 'removed') await tus.terminate(id).catch(() => {});
  else Object.assign(upload, { id, sent: 0, allReceived: false });
  await onCreated();
  signal.throwIfAborted();
}

function setProgress(upload, sent) {
  upload.sent = Math.min(sent, upload.size);
  upload.stallReason = null;
  upload.speed.record(upload.sent);
  if (upload.state === 'sending' || upload.state === 'storing')
    upload.state = upload.sent >= upload.size ? 'storing' : 'sending';
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        reject(new DOMException('aborted', 'AbortError'));
      },
      { once: true },
    );
  });
}
