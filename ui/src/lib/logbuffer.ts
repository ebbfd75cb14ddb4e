// A log's lines, as compact as a million of them must be, and what is found in them.

import { strip } from './ansi';

/** Beyond this the oldest go, a tenth at a time. */
export const MOST_LINES = 1_000_000;

/** What is known of a line. */
export const STDERR = 1;
export const ERROR = 2;
export const WARN = 4;
/** Not a line of the log but a remark of ours in it. */
export const BREAK = 8;

const LEVELS = /\b(?:(ERROR|FATAL|PANIC|CRITICAL|SEVERE|EMERG|ALERT|CRIT)|(WARN|WARNING))\b|\b(?:level|lvl|severity)["']?\s*[=:]\s*["']?(?:(error|fatal|panic|critical)|(warn))/;

export class LogBuffer {
  texts: string[] = [];
  times: number[] = [];
  flags: number[] = [];
  /** Visible characters of each line. */
  lengths: number[] = [];
  /** How many lines have been dropped before the first. */
  dropped = 0;

  get length(): number {
    return this.texts.length;
  }

  /** Takes a batch in; returns how many lines were dropped for it. */
  add(text: string, times: readonly number[], errors: readonly number[]): number {
    const stderr = new Set(errors);
    const lines = text.split('\n');
    for (let i = 0; i < times.length; i++) {
      this.#push(lines[i] ?? '', times[i] ?? 0, stderr.has(i) ? STDERR : 0);
    }
    return this.#trim();
  }

  remark(text: string, time: number): void {
    this.texts.push(text);
    this.times.push(time);
    this.flags.push(BREAK);
    this.lengths.push(1);
  }

  clear(): void {
    this.dropped += this.length;
    this.texts = [];
    this.times = [];
    this.flags = [];
    this.lengths = [];
  }

  #push(raw: string, time: number, flags: number): void {
    const text = raw.includes('\t') ? untab(raw) : raw;
    const visible = text.includes('\x1b') || text.includes('\r') ? strip(text) : text;
    const level = LEVELS.exec(visible.length > 300 ? visible.slice(0, 300) : visible);
    if (level !== null) flags |= level[1] !== undefined || level[3] !== undefined ? ERROR : WARN;
    else if (/^\s/.test(visible)) {
      // A stack trace belongs to the line it follows.
      flags |= (this.flags.at(-1) ?? 0) & (ERROR | WARN);
    }
    this.texts.push(text);
    this.times.push(time);
    this.flags.push(flags);
    this.lengths.push(visible.length);
  }

  #trim(): number {
    if (this.length <= MOST_LINES) return 0;
    const drop = this.length - MOST_LINES * 0.9;
    this.texts = this.texts.slice(drop);
    this.times = this.times.slice(drop);
    this.flags = this.flags.slice(drop);
    this.lengths = this.lengths.slice(drop);
    this.dropped += drop;
    return drop;
  }
}

/** Tabs as blanks up to the next eighth column: only so does a line's length tell its width. */
function untab(line: string): string {
  let out = '';
  let column = 0;
  for (const part of line.split('\t')) {
    if (out !== '') {
      const blanks = 8 - (column % 8);
      out += ' '.repeat(blanks);
      column += blanks;
    }
    out += part;
    column += strip(part).length;
  }
  return line.startsWith('\t') ? ' '.repeat(8) + out : out;
}

export interface Query {
  text: string;
  regex: boolean;
  caseful: boolean;
}

/** What finds a query's matches; nothing for an empty query, `null` for a regex that is none. */
export function matcher(query: Query): RegExp | undefined | null {
  if (query.text === '') return undefined;
  const source = query.regex ? query.text : query.text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  try {
    return new RegExp(source, query.caseful ? 'g' : 'gi');
  } catch {
    return null;
  }
}

/** Whether a line has a match. */
export function found(line: string, pattern: RegExp): boolean {
  pattern.lastIndex = 0;
  return pattern.test(line.includes('\x1b') || line.includes('\r') ? strip(line) : line);
}

/** Where the matches of a visible line are. */
export function spans(visible: string, pattern: RegExp): [number, number][] {
  const spans: [number, number][] = [];
  for (const match of visible.matchAll(pattern)) {
    if (match[0] !== '') spans.push([match.index, match.index + match[0].length]);
    if (spans.length >= 200) break;
  }
  return spans;
}
