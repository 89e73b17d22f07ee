// Resumable uploads by the tus 1.0 protocol. A file is sent in bounded parts, so that proxies with a limit on bodies let
// them through.

import { API, request, toProblem } from './api.js';
import { connection } from './connection.js';
import { Problem, offlineProblem } from './problem.js';

const VERSION = { 'tus-resumable': '1.0.0' };
const MIB = 1024 * 1024;
/** Length of a part without a checksum. If it breaks off, the node keeps what has arrived of it. */
const PLAIN_PART = 32 * MIB;
/** A part with a checksum counts as a whole or not at all, so its length adapts to about one second of sending. */
const CHECKED_PART = { min: MIB, max: 16 * MIB };
const FAST_MS = 400;
const SLOW_MS = 1600;
let checkedPart = CHECKED_PART.min;

const path = (id) => `/uploads/${encodeURIComponent(id)}`;

function base64(text) {
  const raw = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');
  return btoa(raw);
}

/** The browser cannot read the file, or cannot read it any more. */
export class UnreadableFile extends Error {}

/** Creates an upload and returns its id. */
export async function create(size, metadata) {
  const pairs = Object.entries(metadata).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const response = await request('POST', '/uploads', {
    headers: {
      ...VERSION,
      'upload-length': String(size),
      'upload-metadata': pairs.map(([key, value]) => `${key} ${base64(String(value))}`).join(','),
    },
  });
  return decodeURIComponent(response.headers.get('location').split('/').pop());
}

/** Returns the number of bytes that the node has. This also ends a request that still sends to the upload. */
export async function getOffset(id, signal) {
  const response = await request('HEAD', path(id), { headers: VERSION, signal });
  return Number(response.headers.get('upload-offset'));
}

/** Returns the node's record of an upload. */
export const getRecord = async (id, signal) => (await request('GET', path(id), { signal })).json();

/** Deletes an upload and what has arrived of it. */
export const terminate = (id) => request('DELETE', path(id), { headers: VERSION });

/** The value of Upload-Checksum; null if the browser has no SHA-256 (plain HTTP from another machine). */
async function checksum(part) {
  if (!crypto.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await part.arrayBuffer()));
  return `sha256 ${btoa(String.fromCharCode(...digest))}`;
}

/** Sends the next part of `blob`. Resolves to {offset, cid}; `cid` is set after the last part, when the file is stored. */
export async function sendPart(id, blob, offset, options) {
  const part = blob.slice(offset, offset + (crypto.subtle ? checkedPart : PLAIN_PART));
  const sum = await checksum(part);
  const began = performance.now();
  const result = await patch(id, part, sum, offset, options);
  const took = performance.now() - began;
  if (took < FAST_MS && part.size === checkedPart) checkedPart = Math.min(checkedPart * 2, CHECKED_PART.max);
  if (took > SLOW_MS) checkedPart = Math.max(checkedPart / 2, CHECKED_PART.min);
  return result;
}

/** Uses XMLHttpRequest, because fetch does not report upload progress. */
function patch(id, part, sum, offset, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    xhr.open('PATCH', API + path(id));
    for (const [name, value] of Object.entries(VERSION)) xhr.setRequestHeader(name, value);
    xhr.setRequestHeader('upload-offset', String(offset));
    if (sum) xhr.setRequestHeader('upload-checksum', sum);
    xhr.setRequestHeader('content-type', 'application/offset+octet-stream');
    xhr.upload.onprogress = (event) => onProgress(offset + event.loaded);
    xhr.onload = () => {
      connection.seen();
      if (xhr.status === 204)
        return resolve({
          offset: Number(xhr.getResponseHeader('upload-offset')),
          cid: xhr.getResponseHeader('storgo-cid'),
        });
      let problemDocument = {};
      try {
        problemDocument = JSON.parse(xhr.responseText);
      } catch {
        /* a page of a proxy: only the status is useful */
      }
      return reject(toProblem(xhr.status, problemDocument));
    };
    // Both an offline node and an unreadable file end here. Reading the part tells which it was.
    xhr.onerror = () =>
      part
        .stream()
        .pipeTo(new WritableStream())
        .then(
          () => reject(offlineProblem()),
          (error) => reject(new UnreadableFile(error.message)),
        );
    xhr.onabort = () => reject(new DOMException('aborted', 'AbortError'));
    xhr.onloadend = () => signal.removeEventListener('abort', abort);
    signal.addEventListener('abort', abort);
    if (signal.aborted) return reject(new DOMException('aborted', 'AbortError'));
    return xhr.send(part);
  });
}

const TRANSIENT = [0, 409, 423, 429, 460, 502, 503, 504];

/** Whether a retry may succeed. */
export const isTransient = (problem) => problem instanceof Problem && TRANSIENT.includes(problem.status);
