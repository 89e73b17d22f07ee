// The place where files go in: by drop, by the file chooser, by the folder chooser.

import { h } from './dom.js';
import { choose, chosen } from './gather.js';
import { icon } from './icons.js';
import { uploads } from './uploads.js';

/** The card with its buttons. */
export function adding() {
  const open = h('input', { type: 'checkbox', id: 'store-open', 'aria-describedby': 'store-open-hint' });
  const add = (files) => uploads.add(files, { unsealed: open.checked });
  const input = (label, props) => {
    const field = h('input', {
      type: 'file',
      multiple: true,
      class: 'unseen',
      tabindex: '-1',
      'aria-label': label,
      ...props,
      on: {
        change: () => {
          add(chosen(field));
          field.value = '';
        },
      },
    });
    return field;
  };
  const files = input('Files to store', { id: 'choose-files' });
  const folder = input('Folder to store', { id: 'choose-folder', webkitdirectory: true });
  const pick = async () => {
    const picked = await choose();
    if (picked) add(picked);
    else files.click();
  };
  return h(
    'section',
    { class: 'adding', 'aria-label': 'Store files' },
    h('p', { class: 'lead' }, 'Drop files and folders anywhere on this page'),
    h(
      'div',
      { class: 'buttons' },
      files,
      folder,
      h('button', { type: 'button', class: 'main', on: { click: pick } }, icon('plus'), 'Choose files'),
      h('button', { type: 'button', on: { click: () => folder.click() } }, icon('folder'), 'Choose a folder'),
    ),
    h('p', { class: 'choice' }, open, h('label', { for: 'store-open' }, 'Public: do not encrypt')),
    h(
      'p',
      { class: 'hint', id: 'store-open-hint' },
      'Otherwise everything is encrypted on the node, and only who has the link can read it.',
    ),
  );
}
