// Resumable uploads (tus 1.0). A piece is bounded, so a proxy that refuses large bodies is no obstacle, and what has
// arrived of it counts; with a checksum, all of it or nothing.

import { API, Problem, offline, request, toProblem } from './api.js';
import { connection } from './connection.js';

const VERSION = { 'tus-resumable': '1.0.0' };
const MIB = 1024 * 1024;
/** A piece without a checksum: what has arrived of it counts, also where it broke off. */
const LONGEST = 32 * MIB;
/** A piece with one counts as a whole or not at all: so it is as long as about a second takes. */
const CHECKED = { shortest: MIB, longest: 16 * MIB };
const QUICK_MS = 400;
const SLOW_MS = 1600;
let checkedLen = CHECKED.shortest;

const path = (id) => `/uploads/${encodeURIComponent(id)}`;

function base64(text) {
  const raw = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');
  return btoa(raw);
}

/** A file that cannot be read (any more). */
export class Unreadable extends Error {}

/** Creates an upload; its id. */
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

/** How many bytes the node has. */
export async function offset(id, signal) {
  const response = await request('HEAD', path(id), { headers: VERSION, signal });
  return Number(response.headers.get('upload-offset'));
}

/** What the node says of an upload. */
export const look = async (id, signal) => (await request('GET', path(id), { signal })).json();

/** Throws away what has arrived. */
export const end = (id) => request('DELETE', path(id), { headers: VERSION });

/** The piece's SHA-256 as tus says it; null where the browser gives none (over plain HTTP beyond this machine). */
async function checksum(piece) {
  if (!crypto.subtle) return null;
  const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', await piece.arrayBuffer()));
  return `sha256 ${btoa(String.fromCharCode(...sum))}`;
}

/**
 * Sends the next piece of `blob` from `from` on: {offset, cid}, with a CID where this was the last and all is stored.
 * By XMLHttpRequest, because fetch does not tell how far it is.
 */
export async function send(id, blob, from, how) {
  const piece = blob.slice(from, from + (crypto.subtle ? checkedLen : LONGEST));
  const sum = await checksum(piece);
  const began = performance.now();
  const sent = await patch(id, piece, sum, from, how);
  const took = performance.now() - began;
  if (took < QUICK_MS && piece.size === checkedLen) checkedLen = Math.min(checkedLen * 2, CHECKED.longest);
  if (took > SLOW_MS) checkedLen = Math.max(checkedLen / 2, CHECKED.shortest);
  return sent;
}

function patch(id, piece, sum, from, { progress, signal }) {
  return new Promise((done, failed) => {
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    xhr.open('PATCH', API + path(id));
    for (const [name, value] of Object.entries(VERSION)) xhr.setRequestHeader(name, value);
    xhr.setRequestHeader('upload-offset', String(from));
    if (sum) xhr.setRequestHeader('upload-checksum', sum);
    xhr.setRequestHeader('content-type', 'application/offset+octet-stream');
    xhr.upload.onprogress = (event) => progress(from + event.loaded);
    xhr.onload = () => {
      connection.seen();
      if (xhr.status === 204)
        return done({
          offset: Number(xhr.getResponseHeader('upload-offset')),
          cid: xhr.getResponseHeader('storgo-cid'),
        });
      let told = {};
      try {
        told = JSON.parse(xhr.responseText);
      } catch {
        /* a proxy's page: the status is all there is */
      }
      return failed(toProblem(xhr.status, told));
    };
    // The same event, whether the node is away or the browser cannot read the file: reading it tells.
    xhr.onerror = () =>
      piece
        .stream()
        .pipeTo(new WritableStream())
        .then(
          () => failed(offline()),
          (error) => failed(new Unreadable(error.message)),
        );
    xhr.onabort = () => failed(new DOMException('stopped', 'AbortError'));
    xhr.onloadend = () => signal.removeEventListener('abort', abort);
    signal.addEventListener('abort', abort);
    if (signal.aborted) return failed(new DOMException('stopped', 'AbortError'));
    return xhr.send(piece);
  });
}

/** Whether trying again can help. */
export const passing = (problem) =>
  problem instanceof Problem &&
  (problem.status === 0 ||
    problem.status === 409 ||
    problem.status === 423 ||
    problem.status === 429 ||
    problem.status === 460 ||
    [502, 503, 504].includes(problem.status));
