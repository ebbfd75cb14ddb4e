// Figures as people read them.

const STEPS: [number, string][] = [
  [1e12, 'TB'],
  [1e9, 'GB'],
  [1e6, 'MB'],
  [1e3, 'kB'],
];

/** `286 MB`, `1.3 GB`: at most three digits. */
export function bytes(count: number): string {
  for (const [unit, name] of STEPS) {
    // Just below a unit it would be rounded up to 1,000 of the next smaller one.
    if (count >= unit * 0.9995) return `${digits(count / unit)} ${name}`;
  }
  return `${Math.round(count)} B`;
}

/** `41 of 96 MB`: the unit once, if both have the same. */
export function bytesOf(part: number, whole: number): string {
  const [a, b] = [bytes(part), bytes(whole)];
  const [count, unit] = a.split(' ');
  return b.endsWith(` ${unit}`) ? `${count} of ${b}` : `${a} of ${b}`;
}

function digits(value: number): string {
  return value < 9.95 ? value.toFixed(1).replace(/\.0$/, '') : Math.round(value).toString();
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** `26 s`, `12 min`, `3 h`, `9 days`, `3 weeks`, `2 months`, `4 years` */
export function span(millis: number): string {
  const many = (count: number, one: string) => `${count} ${one}${count === 1 ? '' : 's'}`;
  const ms = Math.max(0, millis);
  if (ms < MINUTE) return `${Math.floor(ms / 1000)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
  if (ms < 14 * DAY) return many(Math.floor(ms / DAY), 'day');
  if (ms < 60 * DAY) return many(Math.floor(ms / (7 * DAY)), 'week');
  if (ms < 730 * DAY) return many(Math.floor(ms / (30.4 * DAY)), 'month');
  return many(Math.floor(ms / (365 * DAY)), 'year');
}

/** `12 min ago`, `just now` */
export function ago(time: number, now: number): string {
  return now - time < 2000 ? 'just now' : `${span(now - time)} ago`;
}

/** The exact time, for hovering. */
export function exactly(time: number | null | undefined): string {
  return time === null || time === undefined ? '' : new Date(time).toLocaleString();
}

const two = (value: number) => value.toString().padStart(2, '0');

/** `14:02:17` */
export function clock(time: number): string {
  const date = new Date(time);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** `14:02:17.930` */
export function clockMillis(time: number): string {
  return `${clock(time)}.${new Date(time).getMilliseconds().toString().padStart(3, '0')}`;
}

/** `3.2%` */
export function percent(value: number): string {
  return value >= 100 ? `${Math.round(value)}%` : `${value.toFixed(1)}%`;
}

/** `12,408` */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** What the engine says, as a sentence. */
export function sentence(text: string): string {
  const trimmed = text.trim();
  if (trimmed === '') return '';
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…:]$/.test(first) ? first : `${first}.`;
}
