// The browser session: who is signed in, and what the session allows.

import { activityLog } from './activity-log.js';
import { getQuickly, post, remove, signedOut } from './api.js';
import { storageName } from './base.js';
import { ownProblem } from './problem.js';
import { removeAll } from './upload-store.js';

const RANK = { read: 1, write: 2, admin: 3 };

const EXPIRED = ownProblem('Your session has ended.', 'A session lasts one day, and no longer than the token that it was made from.');
const BAD_TOKEN = ownProblem('This token is not valid.', 'It may be mistyped, expired or revoked.');
const BAD_CODE = ownProblem('This sign-in link is not valid.', 'A link works once. Run storgo-node web for a new one.');

class Session extends EventTarget {
  scope = null;
  /** The user: the id of a token, or the node itself. */
  owner = null;
  expires = null;
  /** The user whose session expired. The user's uploads wait for the next sign-in. */
  expiredOwner = null;
  /** Why the last sign-in or call was refused; shown by the sign-in view. */
  problem = null;

  #tabs = new BroadcastChannel(storageName('storgo-session'));

  constructor() {
    super();
    signedOut.addEventListener('signedout', () => {
      if (this.scope) {
        this.problem = EXPIRED;
        this.expiredOwner = this.owner;
      }
      this.#set(null);
    });
    // Tabs share the cookie, so a sign-in in another tab applies to this one.
    this.#tabs.onmessage = () => this.scope || this.#resume();
  }

  /** Whether the session allows calls of `scope`. */
  can(scope) {
    return (RANK[this.scope] ?? 0) >= RANK[scope];
  }

  /** Signs in by the one-time code in the address, or resumes the session of the cookie. */
  async start() {
    const code = /^#signin=(.+)$/.exec(location.hash)?.[1];
    if (!code) return this.#resume();
    // Take the code out of the address and the history first.
    history.replaceState(null, '', '#/');
    const ok = await this.#signInWith(() => post('/session', { code }), BAD_CODE);
    const { problem } = this;
    // The code may be used up while the browser still has a session.
    if (ok || (await this.#resume())) return true;
    this.problem = problem;
    return false;
  }

  /** Resumes the session of the cookie. Having none is not a problem worth showing. */
  #resume() {
    return this.#signInWith(() => getQuickly('/session'), null);
  }

  signIn = (token) => this.#signInWith(() => post('/session', { token }), BAD_TOKEN);

  async signOut() {
    const { owner } = this;
    await remove('/session').catch((problem) => {
      // 401: the session had already ended.
      if (problem.status !== 401) throw problem;
    });
    this.problem = null;
    this.expiredOwner = null;
    activityLog.clear();
    this.#set(null);
    // `#set` does not notify if the session had already ended, but uploads that waited for it must be dropped now.
    this.dispatchEvent(new Event('change'));
    await removeAll(owner);
  }

  /** Opens a session by `call`. `refused` is the problem to show when the node answers with status 401. */
  async #signInWith(call, refused) {
    try {
      const { scope, token, expires_unix_s: expires } = await call();
      this.problem = null;
      this.expires = expires;
      const fresh = !this.scope;
      this.#set(scope, token ? `token ${token}` : 'node');
      this.expiredOwner = null;
      if (fresh) this.#tabs.postMessage('signed in');
      return true;
    } catch (problem) {
      this.problem = problem.status === 401 ? refused : problem;
      this.#set(null);
      return false;
    }
  }

  #set(scope, owner = null) {
    if (this.scope === scope && this.owner === owner) return;
    this.scope = scope;
    this.owner = owner;
    if (owner) activityLog.setOwner(owner);
    this.dispatchEvent(new Event('change'));
  }
}

export const session = new Session();
