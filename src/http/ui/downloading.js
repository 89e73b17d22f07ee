// Downloads. The browser says nothing where the answer is no file, so the node is asked for the first byte before.

import { API, request } from './api.js';
import { h } from './dom.js';
import { called } from './format.js';
import { history } from './history.js';
import { busy, complain } from './notes.js';

/** So long nothing is said: a file that is here begins at once. */
const SOON_MS = 700;
/** So long may the first byte take, where others have it. */
const PATIENCE_S = 20;

const content = (cid) => `/files/${cid}/content`;

/** Asks for the first byte. Answers why the file cannot be read, null where it can. */
export async function obstacle({ cid, size, kind }, signal) {
  // An empty file has no byte to ask for.
  const headers = { 'storgo-timeout': String(PATIENCE_S), ...(size || kind === 'dir' ? { range: 'bytes=0-0' } : {}) };
  try {
    const response = await request('GET', content(cid), { headers, signal });
    await response.body?.cancel();
    return null;
  } catch (problem) {
    return problem;
  }
}

/** Notes in the activity that a file could not be read. */
export const lament = ({ name }, { message, hint }) =>
  history.add({ type: 'failed', text: `${called(name)} could not be read: ${message}`, hint });

/** The link that downloads a file. */
export function downloadLink(info, props, ...children) {
  const link = h(
    'a',
    { ...props, href: API + content(info.cid), download: info.name?.trim() ? info.name : info.cid, on: { click } },
    ...children,
  );
  let sure = false;
  let asking = false;

  async function click(event) {
    if (sure || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (asking) return;
    asking = true;
    let done = null;
    const timer = setTimeout(() => {
      done = busy(`Looking for who has ${called(info.name)}…`);
    }, SOON_MS);
    const problem = await obstacle(info);
    clearTimeout(timer);
    done?.();
    asking = false;
    if (problem) return complain(problem, `${called(info.name)} could not be read: `);
    sure = true;
    link.click();
    sure = false;
  }

  return link;
}
