// Calls of the node's HTTP API. Every failure is a `Problem`.

import { BASE } from './base.js';
import { connection } from './connection.js';
import { Problem, offlineProblem } from './problem.js';

export const API = `${BASE}api/v1`;

/** A running node answers within this time unless it has to ask peers or read blocks. */
const QUICK_TIMEOUT_MS = 15000;

/** Dispatches `signedout` when a call is refused with status 401. */
export const signedOut = new EventTarget();

/** Returns the response of a call that succeeded. `body` is sent as JSON. */
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
    throw offlineProblem();
  }
  connection.seen();
  if (response.ok) return response;
  throw toProblem(response.status, await response.json().catch(() => ({})));
}

/** The Problem of a status and its problem document. Status 401 also ends the session on this page. */
export function toProblem(status, problemDocument) {
  const title = `The node answered with status ${status}.`;
  const problem = new Problem({ title, ...problemDocument, status });
  if (status === 401) signedOut.dispatchEvent(new Event('signedout'));
  return problem;
}

const json = async (response) => (response.status === 204 ? null : response.json());

export const get = (path, signal) => request('GET', path, { signal }).then(json);

/** `get` for what the node knows without asking peers: when it takes too long, the node counts as offline. */
export async function getQuickly(path, signal) {
  const timeout = AbortSignal.timeout(QUICK_TIMEOUT_MS);
  try {
    return await get(path, signal ? AbortSignal.any([signal, timeout]) : timeout);
  } catch (error) {
    if (error.name !== 'TimeoutError') throw error;
    connection.lost();
    throw offlineProblem();
  }
}

export const post = (path, body = {}, signal) => request('POST', path, { body, signal }).then(json);
export const remove = (path) => request('DELETE', path).then(json);

/** Returns `?a=1&b=2`, without values that are empty. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return set.length ? `?${new URLSearchParams(set)}` : '';
}
