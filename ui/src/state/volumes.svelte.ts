// All volumes, what they occupy, and what is being done to them.

import type { VolumeForm } from '../generated/VolumeForm';
import type { VolumeRow } from '../generated/VolumeRow';
import { transport, type Subscription } from '../transport';
import { usage } from '../volumes/usage';
import { app } from './app.svelte';
import { Removals } from './removals.svelte';

class Volumes {
  rows = $state.raw<readonly VolumeRow[]>([]);
  loaded = $state(false);
  /** Bytes by name, of those that were measured. */
  sizes = $state.raw<ReadonlyMap<string, number>>(new Map());
  /** By name. */
  readonly removals = new Removals((name) => ({ op: 'volumeRemove', name }));

  follow(): void {
    transport.open({ topic: 'volumes' }, {
      update: (update) => {
        if (update.type !== 'volumes') return;
        // Those that somebody named first.
        this.rows = update.rows.toSorted((a, b) => Number(a.anonymous) - Number(b.anonymous) || a.name.localeCompare(b.name));
        this.loaded = true;
        const names = new Set(update.rows.map((row) => row.name));
        this.removals.keep(names);
        if (app.selectedVolume !== null && !names.has(app.selectedVolume)) app.selectVolume(null);
      },
    });
  }

  /** Measures for as long as somebody looks. */
  measure(): Subscription {
    return transport.open({ topic: 'volumeSizes' }, {
      update: (update) => {
        if (update.type === 'volumeSizes') this.sizes = new Map(update.sizes.map(({ name, bytes }) => [name, bytes]));
      },
    });
  }

  /** Rejects with a UiError. */
  async create(form: VolumeForm): Promise<void> {
    const reply = await transport.call({ op: 'volumeCreate', form });
    app.go('volumes');
    if (reply.type === 'made' && this.rows.some((row) => row.name === reply.id)) app.selectVolume(reply.id);
  }

  remove(row: VolumeRow): void {
    if (usage().has(row.name)) void this.removals.now(row.name);
    else {
      this.removals.later(row.name);
      if (app.selectedVolume === row.name) app.selectVolume(null);
    }
  }

  /** Rejects with a UiError. */
  async prune(): Promise<void> {
    await transport.call({ op: 'volumesPrune' });
  }

  /** Those that no container has. */
  get unused(): readonly VolumeRow[] {
    const used = usage();
    return this.rows.filter((row) => !used.has(row.name));
  }
}

export const volumes = new Volumes();
