// Deleting a file that is stored here, and removing one from the list that was only opened by its link.

import { remove } from './api.js';
import { openDialog } from './dialog.js';
import { h } from './dom.js';
import { displayName } from './format.js';
import { showToast } from './toasts.js';

const DELETE = {
  title: (name) => `Delete ${name}?`,
  text: 'This node deletes the file and stops announcing it. Blocks that no other file uses are freed later.',
  hint: 'This cannot be undone. Nodes that have already fetched the file keep their copies, so a link that you shared may still work.',
  action: { label: 'Delete', value: 'delete', kind: 'danger' },
  done: (name) => `${name} was deleted.`,
};
const REMOVE = {
  title: (name) => `Remove ${name} from the list?`,
  text: 'The file was opened by its link and is not stored on this node. The node forgets the file and its key.',
  hint: 'Anyone with the link can open it again, as long as a node has the file.',
  action: { label: 'Remove from list', value: 'delete' },
  done: (name) => `${name} was removed from the list.`,
};

/** The label of the button. */
export const removeLabel = ({ pinned }) => (pinned ? 'Delete' : 'Remove from list');

/** Asks for confirmation and deletes. Resolves to whether the file was deleted. */
export async function removeFile({ cid, name: fileName, pinned }) {
  const name = fileName?.trim() ? displayName(fileName) : cid;
  const texts = pinned ? DELETE : REMOVE;
  const result = await openDialog({
    title: texts.title(name),
    body: [h('p', {}, texts.text), h('p', { class: 'hint' }, texts.hint)],
    actions: [texts.action],
    run: () => remove(`/files/${cid}`),
  });
  if (!result) return false;
  showToast(
    texts.done(name),
    'ok',
    result.withdrawal_pending ? 'Peers that are offline now are told when they are back.' : '',
  );
  return true;
}
