// Addresses of files: in the API and on this page. An entry of a folder is addressed by the folder and a path in it, so
// that it can be read without its link, and is not added to the list of files.

import { query } from './api.js';

/** The path of an API call about a file {cid}, or about an entry {folder, path}: the CID of its folder, and names. */
export function apiPath({ cid, folder, path }, call = '', values = {}) {
  return `/files/${encodeURIComponent(folder ?? cid)}${call}${query({ ...values, path: path?.join('/') })}`;
}

/** The address of the view of a file or an entry. */
export const viewHref = ({ cid, folder, path = [] }) => `#/file/${[folder ?? cid, ...path].map(encodeURIComponent).join('/')}`;

/** The address of an entry of `parent`, which is a folder or an entry itself. */
export const entryAddress = ({ cid, folder, path = [] }, name) => ({ folder: folder ?? cid, path: [...path, name] });
