// A link that somebody else gave.

import { post } from './api.js';
import { ask } from './dialog.js';
import { h } from './dom.js';

/** Asks for a link, opens it, and goes to the file. */
export async function openLink() {
  const field = h('input', {
    type: 'text',
    name: 'link',
    id: 'foreign-link',
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: 'storgo://…#…',
    class: 'mono',
  });
  const info = await ask({
    title: 'Open a link',
    body: [
      h('label', { for: 'foreign-link' }, 'Link'),
      field,
      h(
        'p',
        { class: 'hint' },
        'The file becomes readable here; its bytes are fetched from whoever has them when you look at it. The part behind # is the key: it goes to your node and nowhere else.',
      ),
    ],
    actions: [{ label: 'Open', value: 'open' }],
    act: () => post('/links/open', { link: field.value.trim() }),
  });
  if (info?.cid) location.hash = `#/file/${info.cid}`;
}

/** Opens the link of an entry of a folder. */
export async function follow(link) {
  const { cid } = await post('/links/open', { link });
  location.hash = `#/file/${cid}`;
}
