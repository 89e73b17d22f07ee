// Numbers, times and names as people read them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes: `3.4 MiB`. */
export function bytes(count) {
  if (count === null || count === undefined) return 'Unknown';
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || count >= 100 ? 0 : 1;
  return `${count.toFixed(digits)} ${UNITS[unit]}`;
}

/** Bytes per second. */
export const rate = (count) => `${bytes(count)}/s`;

/** A whole number with separators. */
export const number = (count) => count.toLocaleString('en');

/** `1 file`, `2 files`. */
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Seconds as `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`. */
export function duration(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600)
    return seconds < 600 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const DATE = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
const CLOCK = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });

/** The largest time that a Date can hold, in milliseconds. */
const MAX_DATE_MS = 8.64e15;
const isDate = (ms) => Number.isFinite(ms) && Math.abs(ms) <= MAX_DATE_MS;

/** A time in seconds since 1970. Files may carry any number as their time. */
export const date = (seconds) =>
  seconds && isDate(seconds * 1000) ? DATE.format(new Date(seconds * 1000)) : 'Unknown';

/** The time of day of a time in milliseconds. */
export const clock = (ms) => (isDate(ms) ? CLOCK.format(new Date(ms)) : 'Unknown');

/** Invisible characters, and those that change the writing direction (UAX 9). Joiners belong to some scripts and stay. */
const INVISIBLE =
  /[\p{Cc}\p{Cs}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** Escapes invisible characters as the command line does, on one line: `photo\u{202e}gpj.exe`. */
export const escapeInvisible = (text) =>
  String(text).replace(INVISIBLE, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** The name of a file as the page shows it. */
export const displayName = (name) => (name?.trim() ? escapeInvisible(name) : 'Unnamed');

/** The two ends of a long id: `12D3Koo…x7Qp`. */
export const shortId = (id, head = 8, tail = 6) =>
  id.length > head + tail + 1 ? `${id.slice(0, head)}…${id.slice(-tail)}` : id;
