// What the containers in sight use.

import { SvelteMap } from 'svelte/reactivity';
import type { Sample } from '../generated/Sample';
import { transport, type Subscription } from '../transport';

/** How long the rows in sight must stay the same before their figures are asked for. */
const SETTLE_MS = 250;
/** How many samples a curve has. */
export const HISTORY = 90;

class Stats {
  readonly samples = new SvelteMap<string, Sample>();
  /** The samples of the container whose page is open. */
  history = $state.raw<readonly Sample[]>([]);
  #subscription: Subscription | undefined;
  #watched = '';
  #timer: ReturnType<typeof setTimeout> | undefined;
  #subject: string | null = null;

  /** Follows these containers and no others. */
  watch(ids: string[]): void {
    const wanted = ids.toSorted().join(' ');
    if (wanted === this.#watched) return;
    this.#watched = wanted;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#subscription?.close();
      this.#subscription = undefined;
      if (ids.length === 0) return;
      this.#subscription = transport.open({ topic: 'stats', ids }, {
        update: (update) => {
          if (update.type === 'stats') this.#take(update.samples, ids);
        },
      });
    }, SETTLE_MS);
  }

  /** Keeps the samples of one container from now on. */
  keep(id: string | null): void {
    if (id === this.#subject) return;
    this.#subject = id;
    this.history = [];
  }

  #take(samples: Sample[], ids: string[]): void {
    const gone = new Set(ids);
    for (const sample of samples) {
      gone.delete(sample.id);
      const before = this.samples.get(sample.id);
      this.samples.set(sample.id, { ...sample, cpu: sample.cpu ?? before?.cpu ?? null });
      if (sample.id === this.#subject) this.history = [...this.history, sample].slice(-HISTORY);
    }
    for (const id of gone) this.samples.delete(id);
  }
}

export const stats = new Stats();
