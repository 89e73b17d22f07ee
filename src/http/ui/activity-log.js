// The activity since this tab was opened: events of the node, and failed calls of this page.

import { storageName } from './base.js';

const MAX_ENTRIES = 500;
const MAX_SAVED = 200;
const STORAGE_KEY = storageName('storgo-activity');

class ActivityLog extends EventTarget {
  /** Newest first: {at (ms), serial, type, …}. */
  entries = [];
  /** The user that the entries belong to. */
  #owner = null;
  #serial = 0;
  #saveTimer = null;

  constructor() {
    super();
    try {
      const { owner = null, newest = [] } = JSON.parse(sessionStorage.getItem(STORAGE_KEY)) ?? {};
      this.#owner = owner;
      this.entries = newest;
      this.#serial = newest[0]?.serial ?? 0;
    } catch {
      /* no session storage: the log starts empty */
    }
  }

  add(entry) {
    this.#serial += 1;
    this.entries.unshift({ at: entry.at_unix_ms ?? Date.now(), serial: this.#serial, ...entry });
    this.entries.length = Math.min(this.entries.length, MAX_ENTRIES);
    this.dispatchEvent(new Event('change'));
    this.#saveTimer ??= setTimeout(() => this.#save(), 1000);
  }

  /** Saves the newest entries, so that they survive a reload of this tab. */
  #save() {
    this.#saveTimer = null;
    try {
      sessionStorage.setItem(STORAGE_KEY, JSON.stringify({ owner: this.#owner, newest: this.entries.slice(0, MAX_SAVED) }));
    } catch {
      /* full or refused: the log only lasts until the next reload */
    }
  }

  /** Sets the user of the log. Entries of another user are deleted. */
  setOwner(owner) {
    if (owner !== this.#owner) this.clear();
    this.#owner = owner;
  }

  clear() {
    this.#owner = null;
    this.entries = [];
    this.#save();
    this.dispatchEvent(new Event('change'));
  }
}

export const activityLog = new ActivityLog();
