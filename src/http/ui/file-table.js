// The table of files: rows that update in place, and column headings that sort.

import { fill, h, renderList, setText } from './dom.js';
import { downloadLink } from './download.js';
import { bytes, date, displayName, shortId } from './format.js';
import { icon } from './icons.js';
import { removeLabel } from './remove-file.js';
import { session } from './session.js';

const COLUMNS = [
  ['name', 'Name'],
  ['size', 'Size'],
  ['created', 'Stored'],
];

/**
 * The table: {element, draw(files, sort, order), focusAfterRemoval()}. `onSort(column)`: a heading was clicked.
 * `onRemove(file)`: the button in a row was clicked. `fallback` takes the focus when the focused row disappears and no
 * other is left.
 */
export function fileTable({ onSort, onRemove, fallback }) {
  const rows = h('tbody');
  const headings = COLUMNS.map(([key, label]) =>
    h(
      'th',
      { scope: 'col', class: key },
      h(
        'button',
        { type: 'button', class: 'sort', on: { click: () => onSort(key) } },
        label,
        h('span', { class: 'direction', 'aria-hidden': 'true' }),
      ),
    ),
  );
  const element = h(
    'table',
    { class: 'files' },
    h('caption', { class: 'visually-hidden' }, 'Files on this node'),
    h('thead', {}, h('tr', {}, headings, h('th', { scope: 'col' }, h('span', { class: 'visually-hidden' }, 'Actions')))),
    rows,
  );

  function draw(files, sort, order) {
    COLUMNS.forEach(([key], i) => {
      const sorted = sort === key;
      if (sorted) headings[i].setAttribute('aria-sort', order === 'asc' ? 'ascending' : 'descending');
      else headings[i].removeAttribute('aria-sort');
      setText(headings[i].querySelector('.direction'), sorted ? (order === 'asc' ? '↑' : '↓') : '');
    });
    drawRows(files);
  }

  /** Updates the rows. The focus stays, or moves to the next row if its file is gone. */
  function drawRows(files) {
    const controls = (row) => [...row.querySelectorAll('a, button')];
    const focused = document.activeElement;
    const index = [...rows.children].findIndex((row) => row.contains(focused));
    const focusedRow = rows.children[index];
    const control = focusedRow && controls(focusedRow).indexOf(focused);
    renderList(
      rows,
      files,
      ({ cid }) => cid,
      () => h('tr'),
      (row, file) => {
        const key = JSON.stringify(file);
        if (row.drawnKey !== key) fill(row, fileCells(file, onRemove));
        row.drawnKey = key;
      },
    );
    if (!focusedRow || document.activeElement === focused) return;
    const nextRow = rows.children[Math.min(index, rows.children.length - 1)];
    const target = focusedRow.isConnected ? controls(focusedRow)[control] : nextRow?.querySelector('a');
    (target ?? fallback).focus();
  }

  /** After a file was removed, focuses the same button of the row that took its place. */
  function focusAfterRemoval() {
    const row = document.activeElement?.closest('tbody tr');
    if (row) [...row.querySelectorAll('a, button')].at(-1).focus();
    else if (document.activeElement === document.body) fallback.focus();
  }

  return { element, draw, focusAfterRemoval };
}

function fileCells(file, onRemove) {
  const name = displayName(file.name);
  const tag = (text) => h('span', { class: 'tag' }, text);
  return [
    h(
      'th',
      { scope: 'row', class: 'name' },
      icon(file.kind === 'dir' ? 'folder' : 'files'),
      h('a', { href: `#/file/${file.cid}`, title: name }, name),
      ' ',
      !file.name?.trim() && h('span', { class: 'hint mono' }, shortId(file.cid)),
      !file.pinned && tag('Not stored here'),
      !file.sealed && tag('Public'),
    ),
    h('td', { class: 'size' }, bytes(file.size)),
    h('td', { class: 'created' }, date(file.created)),
    h(
      'td',
      { class: 'act' },
      downloadLink(file, { class: 'button quiet', 'aria-label': `Download ${name}`, title: 'Download' }, icon('down')),
      session.can('write') &&
        h(
          'button',
          {
            type: 'button',
            class: 'quiet',
            'aria-label': file.pinned ? `Delete ${name}` : `Remove ${name} from list`,
            title: removeLabel(file),
            on: { click: () => onRemove(file) },
          },
          icon(file.pinned ? 'bin' : 'cross'),
        ),
    ),
  ];
}
