// Files dropped anywhere on the page are stored.

import { filesFromDrop } from './file-source.js';
import { session } from './session.js';
import { reportProblem, showToast } from './toasts.js';
import { uploads } from './uploads.js';

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');

/** Watches the window. `overlay` is shown while files are dragged over it. */
export function start(overlay) {
  let depth = 0;
  const changeDepth = (step) => {
    depth = Math.max(0, depth + step);
    overlay.hidden = depth === 0 || !session.can('write');
  };
  addEventListener('dragenter', (event) => hasFiles(event) && changeDepth(1));
  addEventListener('dragleave', (event) => hasFiles(event) && changeDepth(-1));
  addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    // By default, the browser would open the file instead.
    event.preventDefault();
    event.dataTransfer.dropEffect = session.can('write') ? 'copy' : 'none';
  });
  addEventListener('drop', async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    changeDepth(0);
    if (!session.can('write')) {
      showToast('Nothing was stored: you can only read.', 'bad', 'Sign in with a token of scope write.');
      return;
    }
    try {
      const files = await filesFromDrop(event.dataTransfer);
      if (files.length) uploads.add(files, { unsealed: document.getElementById('store-public')?.checked });
      else showToast('The drop contained no files.', 'bad');
    } catch (error) {
      reportProblem(error);
    }
  });
}
