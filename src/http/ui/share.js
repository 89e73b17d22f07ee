// Text for other people or machines: a field with a copy button, and a QR code.

import { request } from './api.js';
import { openDialog } from './dialog.js';
import { fill, h } from './dom.js';
import { icon } from './icons.js';
import { loading } from './placeholders.js';
import { reportProblem, showToast } from './toasts.js';

/** Copies a text to the clipboard. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = h('input', { type: 'text', readonly: true, value: text, class: 'visually-hidden', 'aria-hidden': 'true' });
  document.body.append(field);
  try {
    return await copyFromField(field);
  } finally {
    field.remove();
  }
}

async function copyFromField(field) {
  if (navigator.clipboard) return navigator.clipboard.writeText(field.value);
  // Browsers offer no clipboard API to a page that came over plain HTTP from another machine.
  field.select();
  if (!document.execCommand('copy'))
    throw new Error('The browser did not allow copying. The text is selected: press Ctrl+C.');
}

/** A read-only field with a copy button. `what` names the content, for example `link`. */
export function copyField(what, text) {
  const field = h('input', {
    type: 'text',
    readonly: true,
    value: text,
    'aria-label': capitalize(what),
    spellcheck: 'false',
    class: 'mono',
    on: { focus: () => field.select() },
  });
  const button = h('button', { type: 'button', on: { click: copy } }, icon('copy'), `Copy ${what}`);
  async function copy() {
    try {
      await copyFromField(field);
      showToast(`${capitalize(what)} copied.`);
    } catch (error) {
      reportProblem(error);
    }
  }
  return h('div', { class: 'copy' }, field, button);
}

const capitalize = (text) => text[0].toUpperCase() + text.slice(1);

/** A QR code of `text`, drawn by the node. The text is sent in a body, because URLs end up in logs. */
export function qrCode(text, label) {
  const container = h('div', { class: 'qr' }, loading('Loading QR code…'));
  request('POST', '/qr', { body: { text } })
    .then((response) => response.blob())
    .then((blob) => {
      const url = URL.createObjectURL(blob);
      const image = h('img', { src: url, alt: label, on: { load: () => URL.revokeObjectURL(url) } });
      fill(container, image);
    })
    .catch((problem) => fill(container, h('p', { class: 'hint' }, `No QR code: ${problem.message}`)));
  return container;
}

/** Opens a dialog with the text and its QR code. */
export function openShareDialog(title, what, text, hint) {
  return openDialog({
    title,
    body: h(
      'div',
      { class: 'share' },
      hint && h('p', { class: 'hint' }, hint),
      copyField(what, text),
      qrCode(text, `QR code of the ${what}`),
    ),
  });
}
