// A folder as one tar, which the node unpacks into a folder with one link. The Blob refers to the files and reads them
// only when they are sent, so a folder may be larger than memory.

const BLOCK = 512;
/** The limit of the eleven octal digits of a ustar header. */
const MAX_SIZE = 8 ** 11;

const encoder = new TextEncoder();

/** `entries`: [{path, file}], paths relative to the folder. An entry without a file is an empty folder. */
export function tar(entries) {
  const parts = [];
  for (const { path, file } of sorted(entries)) {
    const size = file?.size ?? 0;
    const mtime = Math.floor((file?.lastModified ?? 0) / 1000);
    const name = encoder.encode(path);
    if (name.length > 100 || name.length !== path.length || size >= MAX_SIZE) {
      const extended = encoder.encode(record('path', path) + record('size', String(size)));
      parts.push(header(encoder.encode('pax'), extended.length, mtime, 'x'), extended, padding(extended.length));
    }
    parts.push(header(name, size, mtime, file ? '0' : '5'));
    if (file) parts.push(file, padding(size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts, { type: 'application/x-tar' });
}

/**
 * A hash of all paths, sizes and times in a folder, to recognise it later. It detects changes, not attacks: 64 bits of a
 * simple hash, because browsers offer no cryptographic one to pages over plain HTTP.
 */
export function fingerprint(entries) {
  let [a, b] = [0xdeadbeef, 0x41c6ce57];
  for (const { path, file } of sorted(entries)) {
    for (const byte of encoder.encode(`${path}\u0000${file?.size ?? -1} ${file?.lastModified ?? 0}\u0000`)) {
      a = Math.imul(a ^ byte, 0x9e3779b1);
      b = Math.imul(b ^ byte, 0x5f356495);
      a ^= b >>> 15;
      b ^= a >>> 13;
    }
  }
  return [a, b].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
}

const sorted = (entries) => [...entries].sort((a, b) => (a.path < b.path ? -1 : 1));

const padding = (size) => new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);

/** A record of a pax header. Its length includes the digits of the length. */
function record(key, value) {
  const rest = encoder.encode(` ${key}=${value}\n`).length;
  let length = rest + String(rest).length;
  length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function header(name, size, mtime, type) {
  const bytes = new Uint8Array(BLOCK);
  const put = (at, text) => bytes.set(encoder.encode(text), at);
  const octal = (value, digits) => value.toString(8).padStart(digits, '0');
  bytes.set(name.slice(0, 100));
  put(100, type === '5' ? '0000755' : '0000644');
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size < MAX_SIZE ? size : 0, 11));
  put(136, octal(mtime, 11));
  put(148, '        ');
  put(156, type);
  put(257, 'ustar\u000000');
  const sum = bytes.reduce((all, byte) => all + byte, 0);
  put(148, `${octal(sum, 6)}\u0000 `);
  return bytes;
}
