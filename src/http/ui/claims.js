// Which tab has an upload: one at a time, as long as it is open. Where the page has no locks (not by HTTPS, and not on
// this machine), tabs know nothing of each other.

const ask = (key, options) =>
  new Promise((answer, failed) => {
    if (!navigator.locks) return answer(() => {});
    return (
      navigator.locks
        .request(`storgo-upload-${key}`, options, (lock) => {
          if (lock) return new Promise((release) => answer(release));
          return answer(null);
        })
        // What else can fail is the locks themselves: then it is as without them.
        .catch((error) => (error.name === 'AbortError' ? failed(error) : answer(() => {})))
    );
  });

/** Takes an upload for this tab: the function that gives it back, or null where another tab has it. */
export const claim = (key) => ask(key, { ifAvailable: true });

/** The same, as soon as the other tab has given it back or is closed. */
export const inherit = (key, signal) => ask(key, { signal });
