// Calls of the node's API. Every failure is a Problem: what happened, a stable code, and the next step.

import { connection } from './connection.js';
import { visible } from './format.js';

export const API = '/api/v1';

/** A node that is well answers within that, where it asks nobody and reads no block. */
const SOON_MS = 15000;

/** What can be done about a failure on this page, where the node's own words are for programs or the command line. */
const STEPS = {
  not_found: '“Files” lists what is here; a file elsewhere is opened by its link.',
  unreachable: 'See whether a peer is connected: “Peers” says so.',
  integrity: '“Check everything” on the overview finds what is damaged, and fetches it anew where a peer has it.',
  timeout: 'What has arrived is kept: try again, and it goes on from there.',
};
const FOR_OTHERS = /\/api\/|the same command/;

/** A failure as the API tells it (RFC 9457), or as the network does (`code` is `offline` then). */
export class Problem extends Error {
  constructor({ status = 0, code = 'other', detail, title, hint = '' }) {
    super(sentence(detail || title || 'the request failed'));
    this.status = status;
    this.code = code;
    this.hint = sentence(FOR_OTHERS.test(hint) ? (STEPS[code] ?? '') : hint);
  }
}

/** The API's words as a sentence: they begin small, for programs that put something before them. */
function sentence(said) {
  if (!said) return said;
  const text = said.split('\n').map(visible).join('\n');
  // A word alone: a CID, a name or a setting stays as it is.
  const first = /^[a-z]{1,20}(?![^\s,;:])/.test(text) ? text[0].toUpperCase() : text[0];
  return first + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
}

/** Told when a call says that nobody is signed in. */
export const onSignedOut = new EventTarget();

export const offline = () =>
  new Problem({
    code: 'offline',
    detail: 'The node does not answer.',
    hint: 'Check that storgo-node runs; this page goes on by itself when it is back.',
  });

/** The response of a call that succeeded. `body` is sent as JSON. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = body === undefined ? { ...headers } : { ...headers, 'content-type': 'application/json' };
  let response;
  try {
    response = await fetch(API + path, {
      method,
      headers: sent,
      signal,
      credentials: 'same-origin',
      cache: 'no-store',
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (['AbortError', 'TimeoutError'].includes(error.name)) throw error;
    connection.lost();
    throw offline();
  }
  connection.seen();
  if (response.ok) return response;
  throw await problem(response);
}

async function problem(response) {
  const told = await response.json().catch(() => ({}));
  return toProblem(response.status, told);
}

/** The Problem of a status and its document. Tells the page where the session has ended. */
export function toProblem(status, told) {
  const failure = new Problem({ title: `The node answered with status ${status}.`, ...told, status });
  if (status === 401) onSignedOut.dispatchEvent(new Event('signedout'));
  return failure;
}

const json = async (response) => (response.status === 204 ? null : response.json());

export const get = (path, signal) => request('GET', path, { signal }).then(json);

/** What the node knows by itself: one that hangs is one that is away. */
export async function getSoon(path, signal) {
  const late = AbortSignal.timeout(SOON_MS);
  try {
    return await get(path, signal ? AbortSignal.any([signal, late]) : late);
  } catch (error) {
    if (error.name !== 'TimeoutError') throw error;
    connection.lost();
    throw offline();
  }
}

export const post = (path, body = {}, signal) => request('POST', path, { body, signal }).then(json);
export const remove = (path) => request('DELETE', path).then(json);

/** `?a=1&b=2` of what is set. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return set.length ? `?${new URLSearchParams(set)}` : '';
}
