// One container's log while its page is open: lines, search, and which rows are in sight.

import { transport, type Subscription } from '../transport';
import type { UiError } from '../generated/UiError';
import { clock } from '../lib/format';
import { BREAK, ERROR, found, LogBuffer, matcher, type Query } from '../lib/logbuffer';
import { RowIndex } from '../lib/rowindex';

/** How long a search may keep the window waiting at a time. */
const SLICE_MS = 8;

export class LogModel {
  readonly buffer = new LogBuffer();
  /** Of the lines shown: all of them, or those the filter leaves. */
  readonly index = new RowIndex();
  /** Raised after changes of the two above, once a frame at most: a flood is read, not watched. */
  version = $state(0);
  error = $state.raw<UiError | null>(null);
  caughtUp = $state(false);
  /** Lines that match the query, as numbers that dropping doesn't change. */
  hits = $state.raw<readonly number[]>([]);
  badQuery = $state(false);
  /** The lines shown, as positions in the buffer; nothing if all are. */
  shown: number[] | null = null;
  pattern = $state.raw<RegExp | null>(null);
  #columns = 80;
  #wrap = true;
  #filter = false;
  #subscription: Subscription;
  #searched = 0;
  #search = 0;
  #frame = 0;

  constructor(id: string) {
    this.#subscription = transport.open({ topic: 'logs', id }, {
      update: (update) => {
        if (update.type === 'lines') {
          this.#take(update.text, update.times, update.errors);
          this.#subscription.send({ type: 'ack', bytes: update.weight });
        } else if (update.type === 'logCaughtUp') this.caughtUp = true;
        else if (update.type === 'failed') this.error = update;
      },
    });
  }

  close(): void {
    cancelAnimationFrame(this.#frame);
    this.#search++;
    this.#subscription.close();
  }

  changed(): void {
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.version++;
    });
  }

  get length(): number {
    return this.shown?.length ?? this.buffer.length;
  }

  /** The buffer's position of a line that is shown. */
  position(line: number): number {
    return this.shown === null ? line : (this.shown[line] ?? 0);
  }

  restarted(time: number): void {
    this.buffer.remark(`Restarted ${clock(time)}`, time);
    this.#extend(this.buffer.length - 1);
  }

  clear(): void {
    this.buffer.clear();
    this.shown = this.shown === null ? null : [];
    this.index.clear();
    this.hits = [];
    this.#searched = 0;
    this.changed();
  }

  /** How wide the view is, and whether lines are broken to fit. */
  fit(columns: number, wrap: boolean): void {
    if (columns === this.#columns && wrap === this.#wrap) return;
    this.#columns = Math.max(8, columns);
    this.#wrap = wrap;
    this.#reindex();
  }

  find(query: Query, filter: boolean): void {
    const pattern = matcher(query);
    this.badQuery = pattern === null;
    this.pattern = pattern ?? null;
    this.#filter = filter && this.pattern !== null;
    this.hits = [];
    this.#searched = 0;
    this.shown = this.#filter ? [] : null;
    this.#reindex();
    void this.#goOn(++this.#search);
  }

  /** Everything there is to copy. */
  text(): string {
    const lines = [];
    for (let line = 0; line < this.length; line++) lines.push(this.buffer.texts[this.position(line)] ?? '');
    return lines.join('\n');
  }

  #take(text: string, times: readonly number[], errors: readonly number[]): void {
    const from = this.buffer.length;
    const dropped = this.buffer.add(text, times, errors);
    if (dropped > 0) {
      this.#searched = Math.max(0, this.#searched - dropped);
      this.hits = this.hits.filter((hit) => hit >= this.buffer.dropped);
      if (this.shown !== null) this.shown = this.shown.map((position) => position - dropped).filter((position) => position >= 0);
      this.#reindex();
    } else {
      this.#extend(from);
    }
    if (this.pattern !== null) void this.#goOn(++this.#search);
  }

  #extend(from: number): void {
    if (this.shown === null) for (let i = from; i < this.buffer.length; i++) this.index.push(this.#rows(i));
    this.changed();
  }

  #rows(position: number): number {
    const length = this.buffer.lengths[position] ?? 0;
    return this.#wrap && length > this.#columns ? Math.min(0xffff, Math.ceil(length / this.#columns)) : 1;
  }

  #reindex(): void {
    this.index.clear();
    for (let line = 0; line < this.length; line++) this.index.push(this.#rows(this.position(line)));
    this.changed();
  }

  /** Searches what has not been searched, in slices; a newer search ends it. */
  async #goOn(search: number): Promise<void> {
    const pattern = this.pattern;
    if (pattern === null) return;
    while (this.#searched < this.buffer.length) {
      const fresh: number[] = [];
      const end = performance.now() + SLICE_MS;
      while (this.#searched < this.buffer.length && performance.now() < end) {
        // The clock is dearer than a line.
        const stop = Math.min(this.buffer.length, this.#searched + 500);
        for (; this.#searched < stop; this.#searched++) {
          const position = this.#searched;
          if ((this.buffer.flags[position] ?? 0) & BREAK || !found(this.buffer.texts[position] ?? '', pattern)) continue;
          fresh.push(position + this.buffer.dropped);
          if (this.shown !== null) {
            this.shown.push(position);
            this.index.push(this.#rows(position));
          }
        }
      }
      if (fresh.length > 0) {
        this.hits = this.hits.concat(fresh);
        this.changed();
      }
      await new Promise((done) => setTimeout(done));
      if (search !== this.#search) return;
    }
  }

  /** Marks for the ruler at the right edge, as fractions of the whole: matches and errors. */
  marks(buckets: number): { at: number; error: boolean }[] {
    const marks = new Map<number, boolean>();
    const total = Math.max(1, this.length);
    const bucket = (line: number) => Math.floor((line / total) * buckets);
    if (this.shown === null) {
      for (let i = 0; i < this.buffer.length; i++) if ((this.buffer.flags[i] ?? 0) & ERROR) marks.set(bucket(i), true);
      for (const hit of this.hits) marks.set(bucket(hit - this.buffer.dropped), false);
    }
    return [...marks].map(([at, error]) => ({ at: at / buckets, error }));
  }
}

