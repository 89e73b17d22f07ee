// An address that names no view.

import { fill, h } from '../dom.js';
import { empty } from '../notes.js';

export const title = 'Nothing here';

export function show({ body }) {
  fill(
    body,
    empty(
      'There is no such view.',
      'The address may be old or mistyped.',
      h('a', { class: 'button', href: '#/' }, 'To the overview'),
    ),
  );
}
