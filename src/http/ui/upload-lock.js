// Only one tab at a time sends an upload. Tabs agree by Web Locks; where the browser has none (plain HTTP from another
// machine), tabs do not know of each other.

import { storageName } from './base.js';

const requestLock = (key, options) =>
  new Promise((resolve, reject) => {
    if (!navigator.locks) return resolve(() => {});
    return (
      navigator.locks
        .request(storageName(`storgo-upload-${key}`), options, (lock) => {
          if (lock) return new Promise((release) => resolve(release));
          return resolve(null);
        })
        // If locking itself fails, go on without locks.
        .catch((error) => (error.name === 'AbortError' ? reject(error) : resolve(() => {})))
    );
  });

/** Locks an upload for this tab. Resolves to a function that releases it, or to null if another tab has the lock. */
export const tryLock = (key) => requestLock(key, { ifAvailable: true });

/** Waits until the other tab releases the lock or is closed. */
export const waitForLock = (key, signal) => requestLock(key, { signal });
