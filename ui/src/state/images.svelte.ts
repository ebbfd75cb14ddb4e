// All images, and the pulls under way.

import { SvelteMap } from 'svelte/reactivity';
import type { ImageRow } from '../generated/ImageRow';
import type { Transfer } from '../generated/Transfer';
import type { UiError } from '../generated/UiError';
import { canonical } from '../lib/reference';
import { asError, transport, type Subscription } from '../transport';
import { app } from './app.svelte';

export interface Pull {
  reference: string;
  transfer: Transfer | null;
  error: UiError | null;
  done: boolean;
  since: number;
}

class Images {
  rows = $state.raw<readonly ImageRow[]>([]);
  loaded = $state(false);
  readonly pulls = new SvelteMap<string, Pull>();
  /** By image reference. */
  readonly failures = new SvelteMap<string, UiError>();
  readonly busy = new SvelteMap<string, string>();
  #subscriptions = new Map<string, Subscription>();

  follow(): void {
    transport.open({ topic: 'images' }, {
      update: (update) => {
        if (update.type !== 'images') return;
        const order = (row: ImageRow) => `${row.name === '' ? '~' : row.name} ${row.host} ${row.tag}`;
        this.rows = update.rows.toSorted((a, b) => order(a).localeCompare(order(b)));
        this.loaded = true;
      },
    });
  }

  pull(typed: string): void {
    const reference = canonical(typed);
    this.#subscriptions.get(reference)?.close();
    const change = (to: Partial<Pull>) => {
      const pull = this.pulls.get(reference);
      if (pull !== undefined) this.pulls.set(reference, { ...pull, ...to });
    };
    this.pulls.set(reference, { reference, transfer: null, error: null, done: false, since: Date.now() });
    app.selectImage(reference);
    const subscription = transport.open({ topic: 'pull', reference }, {
      update: (update) => {
        if (update.type === 'transfer') change({ transfer: update });
        else if (update.type === 'failed') change({ error: update });
        else if (update.type === 'done') change({ done: true });
      },
      end: () => {
        const pull = this.pulls.get(reference);
        if (pull?.done === false && pull.error === null) {
          change({ error: { kind: 'unavailable', message: 'The engine went away meanwhile' } });
        }
      },
    });
    this.#subscriptions.set(reference, subscription);
  }

  /** Cancels a pull, or takes its end away. */
  dismiss(reference: string): void {
    this.#subscriptions.get(reference)?.close();
    this.#subscriptions.delete(reference);
    this.pulls.delete(reference);
  }

  async remove(reference: string): Promise<void> {
    this.failures.delete(reference);
    this.busy.set(reference, 'Removing');
    try {
      await transport.call({ op: 'imageRemove', name: reference, force: false });
      if (app.selectedImage === reference) app.selectImage(null);
    } catch (error) {
      this.failures.set(reference, asError(error));
    } finally {
      this.busy.delete(reference);
    }
  }
}

export const images = new Images();
