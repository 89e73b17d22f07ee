// Text to hand on: a field that can be selected, a copy button, and the same as a QR code.

import { request } from './api.js';
import { ask } from './dialog.js';
import { fill, h } from './dom.js';
import { icon } from './icons.js';
import { complain, loading, note } from './notes.js';

/** Puts a text into the clipboard. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = h('input', { type: 'text', readonly: true, value: text, class: 'unseen', 'aria-hidden': 'true' });
  document.body.append(field);
  try {
    return await toClipboard(field);
  } finally {
    field.remove();
  }
}

async function toClipboard(field) {
  // The clipboard's own interface is missing where the page came over plain HTTP from another machine.
  if (navigator.clipboard) return navigator.clipboard.writeText(field.value);
  field.select();
  if (!document.execCommand('copy'))
    throw new Error('The browser did not allow copying; the text is selected: press Ctrl-C.');
}

/** A read-only field with a copy button. `what` names it, for example `link`. */
export function copyField(what, text) {
  const field = h('input', {
    type: 'text',
    readonly: true,
    value: text,
    'aria-label': what,
    spellcheck: 'false',
    class: 'mono',
    on: { focus: () => field.select() },
  });
  const button = h('button', { type: 'button', on: { click: copy } }, icon('copy'), `Copy ${what}`);
  async function copy() {
    try {
      await toClipboard(field);
      note(`The ${what} is copied.`);
    } catch (error) {
      complain(error);
    }
  }
  return h('div', { class: 'copy' }, field, button);
}

/** A QR code of `text`, drawn by the node: the text travels in a body, never in an address. */
export function qr(text, label) {
  const place = h('div', { class: 'qr' }, loading('Drawing the code…'));
  request('POST', '/qr', { body: { text } })
    .then((response) => response.blob())
    .then((blob) => {
      const url = URL.createObjectURL(blob);
      const image = h('img', { src: url, alt: label, on: { load: () => URL.revokeObjectURL(url) } });
      fill(place, image);
    })
    .catch((problem) => fill(place, h('p', { class: 'hint' }, `No code could be drawn: ${problem.message}`)));
  return place;
}

/** A dialog with the text and its QR code. */
export function show(title, what, text, warning) {
  return ask({
    title,
    body: h(
      'div',
      { class: 'share' },
      warning && h('p', { class: 'hint' }, warning),
      copyField(what, text),
      qr(text, `QR code of the ${what}`),
    ),
  });
}
