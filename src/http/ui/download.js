// Downloads. A browser saves an error response as if it were the file, so the page asks for the first byte beforehand.

import { activityLog } from './activity-log.js';
import { API, request } from './api.js';
import { h } from './dom.js';
import { events } from './events.js';
import { apiPath } from './file-address.js';
import { displayName, plural } from './format.js';
import { reportProblem, showBusyToast, showToast } from './toasts.js';

/** A toast appears if the first byte takes longer. */
const BUSY_AFTER_MS = 700;
/** How long the node may look for a provider of the first byte. */
const FIRST_BYTE_TIMEOUT_S = 20;

/** Asks the node for the first byte of a file. Resolves to the Problem, or to null if the file can be read. */
export async function checkReadable(file, signal) {
  const headers = { 'storgo-timeout': String(FIRST_BYTE_TIMEOUT_S) };
  // An empty file has no first byte.
  if (file.size !== 0 || file.kind === 'dir') headers.range = 'bytes=0-0';
  try {
    const response = await request('GET', apiPath(file, '/content'), { headers, signal });
    await response.body?.cancel();
    return null;
  } catch (problem) {
    return problem;
  }
}

/** CIDs of the folders that this tab has downloaded, until something is known to be missing. */
const downloaded = new Set();

// A browser does not tell the page how a download ended, but the node does if it left something out.
events.addEventListener('event', ({ detail: { type, cid, count } }) => {
  // Once for each download: the check of the first byte may have told the same.
  if (type !== 'left_out' || !downloaded.delete(cid)) return;
  showToast(`${plural(count, 'file')} could not be read and ${count === 1 ? 'is' : 'are'} missing in the download.`, 'bad', 'A list is in the downloaded archive and under “Activity”.');
});

const readFailure = ({ name }) => `Could not read ${displayName(name)}: `;

/** Records in the activity log that a file could not be read. */
export const logReadFailure = (info, { message, hint }) =>
  activityLog.add({ type: 'failed', text: readFailure(info) + message, hint });

/** A link that downloads a file. */
export function downloadLink(info, props, ...children) {
  const name = info.name?.trim() ? info.name : info.cid;
  const link = h('a', { ...props, href: API + apiPath(info, '/content'), download: name, on: { click } }, ...children);
  let checked = false;
  let checking = false;

  async function click(event) {
    if (checked || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (checking) return;
    checking = true;
    let hideToast = null;
    const timer = setTimeout(() => {
      hideToast = showBusyToast(`Looking for providers of ${displayName(info.name)}…`);
    }, BUSY_AFTER_MS);
    const problem = await checkReadable(info);
    clearTimeout(timer);
    hideToast?.();
    checking = false;
    if (problem) return reportProblem(problem, readFailure(info));
    if (info.kind === 'dir') downloaded.add(info.cid);
    checked = true;
    link.click();
    checked = false;
  }

  return link;
}
