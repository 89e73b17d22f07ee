// Who is signed in, and what that allows.

import { getSoon, onSignedOut, Problem, post, remove } from './api.js';
import { history as activity } from './history.js';
import { forgetAllOf } from './kept.js';

const RANK = { read: 1, write: 2, admin: 3 };

class Session extends EventTarget {
  scope = null;
  /** Whose session it is: the id of a token, or the node's own. */
  owner = null;
  expires = null;
  /** Whose session ended by itself: what they had begun waits for them. */
  waiting = null;
  /** Why the last sign-in or call was refused, for the sign-in view. */
  refused = null;

  #tabs = new BroadcastChannel('storgo-session');

  constructor() {
    super();
    onSignedOut.addEventListener('signedout', () => {
      if (this.scope) {
        const title = 'your session has ended: its token ended or was revoked, or the node was started anew';
        this.refused = new Problem({ status: 401, title });
        this.waiting = this.owner;
      }
      this.#set(null);
    });
    // A sign-in by another tab is for this one, too.
    this.#tabs.onmessage = () => this.scope || this.#goOn();
  }

  /** Whether calls of `scope` are allowed. */
  may(scope) {
    return (RANK[this.scope] ?? 0) >= RANK[scope];
  }

  /** Signs in by the one-time code of a link, where the address has one, or goes on with the cookie's session. */
  async begin() {
    const code = /^#signin=(.+)$/.exec(location.hash)?.[1];
    if (!code) return this.#goOn();
    // Out of the address and of the history before anything else happens.
    history.replaceState(null, '', '#/');
    const ok = await this.#take(() => post('/session', { code }));
    const why = this.refused;
    // A link that was used up may still belong to somebody who is signed in.
    if (ok || (await this.#goOn())) return true;
    this.refused = why;
    return false;
  }

  /** With the session that the browser has, if it has one: that it has none is no news. */
  async #goOn() {
    const ok = await this.#take(() => getSoon('/session'));
    if (this.refused?.status === 401) this.refused = null;
    return ok;
  }

  signIn = (token) => this.#take(() => post('/session', { token }));

  async signOut() {
    const { owner } = this;
    await remove('/session').catch((problem) => {
      // It had ended already.
      if (problem.status !== 401) throw problem;
    });
    this.refused = null;
    this.waiting = null;
    activity.clear();
    this.#set(null);
    // Also where the session had ended by itself: now nothing waits for anybody.
    this.dispatchEvent(new Event('change'));
    await forgetAllOf(owner);
  }

  async #take(ask) {
    try {
      const { scope, token, expires_unix_s: expires } = await ask();
      this.refused = null;
      this.expires = expires;
      const fresh = !this.scope;
      this.#set(scope, token ? `token ${token}` : 'node');
      this.waiting = null;
      if (fresh) this.#tabs.postMessage('signed in');
      return true;
    } catch (problem) {
      this.refused = problem;
      this.#set(null);
      return false;
    }
  }

  #set(scope, owner = null) {
    if (this.scope === scope && this.owner === owner) return;
    this.scope = scope;
    this.owner = owner;
    // Who comes back after the session has ended by itself finds what was there.
    if (owner) activity.belong(owner);
    this.dispatchEvent(new Event('change'));
  }
}

export const session = new Session();
