// Dropping files anywhere on the page stores them.

import { dropped } from './gather.js';
import { complain, note } from './notes.js';
import { session } from './session.js';
import { uploads } from './uploads.js';

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');

/** Watches the window; `veil` is shown while something hangs over it. */
export function begin(veil) {
  let depth = 0;
  const over = (step) => {
    depth = Math.max(0, depth + step);
    veil.hidden = depth === 0 || !session.may('write');
  };
  addEventListener('dragenter', (event) => hasFiles(event) && over(1));
  addEventListener('dragleave', (event) => hasFiles(event) && over(-1));
  addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    // Without this the browser would open the file in place of the page.
    event.preventDefault();
    event.dataTransfer.dropEffect = session.may('write') ? 'copy' : 'none';
  });
  addEventListener('drop', async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(0);
    if (!session.may('write')) {
      note('You are signed in to read only: nothing was stored.', 'bad', 'Sign in with a token of scope write.');
      return;
    }
    try {
      const files = await dropped(event.dataTransfer);
      if (files.length) uploads.add(files, { unsealed: document.getElementById('store-open')?.checked });
      else note('There was no file in it.', 'bad');
    } catch (error) {
      complain(error);
    }
  });
}
