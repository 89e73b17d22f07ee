// Failures, and what the page tells the user about them. The text is chosen by the stable `reason` and `code` of the
// API's problem documents (RFC 9457), never by their English text.

import { escapeInvisible } from './format.js';

/** Texts by `reason`: {message, hint}. Where there is no message, the node's `detail` is shown. */
const BY_REASON = {
  key_missing: { message: 'The link has no key.', hint: 'Ask for the whole link, including the part after #.' },
  key_wrong: {
    message: 'The key does not fit this file.',
    hint: 'Check that the link is complete. If it is, it was made for another file.',
  },
  crafted_data: {
    message: 'This data was crafted to share its SHA-1 hash with other data.',
    hint: 'Store it encrypted: uncheck “Public”.',
  },
  disk_full: { message: 'The disk is full.', hint: 'Free some space on the node’s disk.' },
  no_peers: { message: 'No peer is connected.', hint: 'Add a peer under “Peers”.' },
  entry_unknown: { message: 'The folder has no entry of this name.', hint: 'Open the folder to see its entries.' },
  no_provider: {
    message: 'No connected node has this file.',
    hint: 'Connect a node that has it, then try again.',
  },
  index_behind: { hint: 'Stop the node and run storgo-node verify --rebuild-index there.' },
  index_lost: { hint: 'Stop the node and run storgo-node verify --rebuild-index there.' },
  worker_failed: { message: 'The node failed to process this.', hint: 'See the node’s log, and report the problem.' },
};

/** Next steps by `code`: {hint}. The message is the node's `detail`. */
const BY_CODE = {
  not_found: { hint: 'Files on this node are under “Files”. Open other files by their link.' },
  unreachable: { hint: 'Check under “Peers” that a peer is connected.' },
  integrity: { hint: 'Use “Verify all blocks” on the overview to find damaged blocks and fetch good copies.' },
  collision: { hint: 'Store the file encrypted: uncheck “Public”.' },
  timeout: { hint: 'Try again. What has already arrived is kept.' },
  locked: { hint: 'Try again in a moment.' },
  no_space: { hint: 'Free some disk space, delete files, or raise storage.capacity.' },
  shutting_down: { hint: 'Start the node again.' },
  offline: {
    message: 'The node does not answer.',
    hint: 'Check that storgo-node is running. This page reconnects by itself.',
  },
};

/**
 * A failed call. `status`: of the HTTP response, 0 without one. `code` and `reason`: from the problem document, or
 * `offline` when the node could not be reached. `message` and `hint` are texts for the user; `hint` may be empty.
 */
export class Problem extends Error {
  constructor({ status = 0, code = 'other', reason = null, detail, title }) {
    const text = BY_REASON[reason] ?? BY_CODE[code] ?? {};
    super(text.message ?? toSentence(detail || title || 'the request failed'));
    this.status = status;
    this.code = code;
    this.reason = reason;
    this.hint = text.hint ?? '';
  }
}

export const offlineProblem = () => new Problem({ code: 'offline' });

/** A text of the page itself as a problem. */
export function ownProblem(message, hint = '') {
  return Object.assign(new Problem({ detail: message }), { hint });
}

/** Messages of the API start in lower case and have no full stop; the page shows sentences. */
function toSentence(message) {
  const text = message.split('\n').map(escapeInvisible).join('\n');
  // A first word that is a CID, a file name or a setting keeps its case.
  const first = /^[a-z]{1,20}(?![^\s,;:])/.test(text) ? text[0].toUpperCase() : text[0];
  return first + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
}
