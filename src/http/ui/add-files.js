// The card with which files and folders are chosen for upload.

import { h } from './dom.js';
import { filesFromInput, showFilePicker } from './file-source.js';
import { icon } from './icons.js';
import { uploads } from './uploads.js';

export function addFilesCard() {
  const isPublic = h('input', { type: 'checkbox', id: 'store-public', 'aria-describedby': 'store-public-hint' });
  const add = (sources) => uploads.add(sources, { unsealed: isPublic.checked });
  const fileInput = (label, props) => {
    const input = h('input', {
      type: 'file',
      multiple: true,
      class: 'visually-hidden',
      tabindex: '-1',
      'aria-label': label,
      ...props,
      on: {
        change: () => {
          add(filesFromInput(input));
          input.value = '';
        },
      },
    });
    return input;
  };
  const files = fileInput('Files to store', { id: 'choose-files' });
  const folder = fileInput('Folder to store', { id: 'choose-folder', webkitdirectory: true });
  const chooseFiles = async () => {
    const sources = await showFilePicker();
    if (sources) add(sources);
    else files.click();
  };
  return h(
    'section',
    { class: 'add-files', 'aria-label': 'Store files' },
    h('p', { class: 'lead' }, 'Drop files and folders anywhere on this page'),
    h(
      'div',
      { class: 'buttons' },
      files,
      folder,
      h('button', { type: 'button', class: 'main', on: { click: chooseFiles } }, icon('plus'), 'Choose files'),
      h('button', { type: 'button', on: { click: () => folder.click() } }, icon('folder'), 'Choose folder'),
    ),
    h('p', { class: 'choice' }, isPublic, h('label', { for: 'store-public' }, 'Public, not encrypted')),
    h(
      'p',
      { class: 'hint', id: 'store-public-hint' },
      'By default, files are encrypted on this node, and only people with the link can read them.',
    ),
  );
}
