// Opening a file by its link.

import { post } from './api.js';
import { openDialog } from './dialog.js';
import { h } from './dom.js';

/** Asks for a link, opens it, and shows the file. */
export async function promptForLink() {
  const field = h('input', {
    type: 'text',
    name: 'link',
    id: 'open-link',
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: 'storgo://…#…',
    class: 'mono',
  });
  const info = await openDialog({
    title: 'Open link',
    body: [
      h('label', { for: 'open-link' }, 'Link'),
      field,
      h(
        'p',
        { class: 'hint' },
        'The file appears in your list. Its blocks are fetched when you view or download it. The part after # is the key: it is sent to your node only.',
      ),
    ],
    actions: [{ label: 'Open', value: 'open' }],
    run: () => post('/links/open', { link: field.value.trim() }),
  });
  if (info?.cid) location.hash = `#/file/${info.cid}`;
}

/** Opens a link and shows the file. */
export async function openLink(link) {
  const { cid } = await post('/links/open', { link });
  location.hash = `#/file/${cid}`;
}
