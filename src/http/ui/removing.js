// Deleting, and what it does.

import { remove } from './api.js';
import { ask } from './dialog.js';
import { h } from './dom.js';
import { called as calledBy } from './format.js';
import { note } from './notes.js';

/** Asks, deletes, and answers whether it did. */
export async function removeFile({ cid, name, pinned }) {
  const called = name?.trim() ? calledBy(name) : cid;
  const done = await ask({
    title: `Delete ${called}?`,
    body: [
      h(
        'p',
        {},
        pinned
          ? 'This node stops keeping the file and takes back what it told its peers. Blocks that no other file shares are freed after a while.'
          : 'This node forgets the file and its key. It was not kept here, only known.',
      ),
      h(
        'p',
        { class: 'hint' },
        'It cannot be undone. Who has fetched the file keeps what they have: a link that you gave away may go on working elsewhere.',
      ),
    ],
    actions: [{ label: 'Delete', value: 'delete', kind: 'danger' }],
    act: () => remove(`/files/${cid}`),
  });
  if (!done) return false;
  note(
    `${called} is deleted.`,
    'ok',
    done.withdrawal_pending ? 'Some peers are away; they are told when they are back.' : '',
  );
  return true;
}
