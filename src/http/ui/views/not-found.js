// The view for an address that names no view.

import { fill, h } from '../dom.js';
import { emptyState } from '../placeholders.js';

export const title = 'Page not found';

export function show({ body }) {
  fill(
    body,
    emptyState(
      'This page does not exist',
      'The address may be old or mistyped.',
      h('a', { class: 'button', href: '#/' }, 'Go to the overview'),
    ),
  );
}
