// Deleting, and what it does. What is not kept here is only taken off the list.

import { remove } from './api.js';
import { ask } from './dialog.js';
import { h } from './dom.js';
import { called as calledBy } from './format.js';
import { note } from './notes.js';

const KEPT = {
  title: (called) => `Delete ${called}?`,
  what: 'This node stops keeping the file and takes back what it told its peers. Blocks that no other file shares are freed after a while.',
  hint: 'It cannot be undone. Who has fetched the file keeps what they have: a link that you gave away may go on working elsewhere.',
  action: { label: 'Delete', value: 'delete', kind: 'danger' },
  done: (called) => `${called} is deleted.`,
};
const OPENED = {
  title: (called) => `Take ${called} off the list?`,
  what: 'It is not kept here, only opened: this node forgets the file and its key.',
  hint: 'Who has its link can open it again, as long as somebody has the file.',
  action: { label: 'Take off', value: 'delete' },
  done: (called) => `${called} is off the list.`,
};

/** What the button is called that does it. */
export const removal = ({ pinned }) => (pinned ? 'Delete' : 'Take off the list');

/** Asks, deletes, and answers whether it did. */
export async function removeFile({ cid, name, pinned }) {
  const called = name?.trim() ? calledBy(name) : cid;
  const words = pinned ? KEPT : OPENED;
  const done = await ask({
    title: words.title(called),
    body: [h('p', {}, words.what), h('p', { class: 'hint' }, words.hint)],
    actions: [words.action],
    act: () => remove(`/files/${cid}`),
  });
  if (!done) return false;
  note(
    words.done(called),
    'ok',
    done.withdrawal_pending ? 'Some peers are away; they are told when they are back.' : '',
  );
  return true;
}
