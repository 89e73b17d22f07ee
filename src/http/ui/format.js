// Numbers as people read them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes: `3.4 MiB`. */
export function bytes(count) {
  if (count === null || count === undefined) return 'unknown';
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

/** The furthest moment that a Date can be, in milliseconds. */
const FURTHEST_MS = 8.64e15;
const isMoment = (ms) => Number.isFinite(ms) && Math.abs(ms) <= FURTHEST_MS;

/** A moment in seconds since 1970; any number may be stored as one. */
export const date = (seconds) =>
  seconds && isMoment(seconds * 1000) ? DATE.format(new Date(seconds * 1000)) : 'unknown';

/** The time of day of a moment in milliseconds. */
export const clock = (ms) => (isMoment(ms) ? CLOCK.format(new Date(ms)) : 'unknown');

/** What is not seen in a text, or turns the way of what is (UAX 9). Joiners are letters of some scripts, and stay. */
const HIDDEN =
  /[\p{Cc}\p{Cs}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** A text with everything in it visible, on one line, as the command line writes it: `photo\u{202e}gpj.exe`. */
export const visible = (text) => String(text).replace(HIDDEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** What a file is called on this page. */
export const called = (name) => (name?.trim() ? visible(name) : 'unnamed');

/** The two ends of a long id: `12D3Koo…x7Qp`. */
export const short = (id, head = 8, tail = 6) =>
  id.length > head + tail + 1 ? `${id.slice(0, head)}…${id.slice(-tail)}` : id;
