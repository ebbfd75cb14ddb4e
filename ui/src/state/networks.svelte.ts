// All networks, and what is being done to them.

import type { ConnectForm } from '../generated/ConnectForm';
import type { ContainerRow } from '../generated/ContainerRow';
import type { NetworkForm } from '../generated/NetworkForm';
import type { NetworkRow } from '../generated/NetworkRow';
import { transport } from '../transport';
import { app } from './app.svelte';
import { containers } from './containers.svelte';
import { Removals } from './removals.svelte';

class Networks {
  rows = $state.raw<readonly NetworkRow[]>([]);
  loaded = $state(false);
  /** By id. */
  readonly removals = new Removals((id) => ({ op: 'networkRemove', id }));
  /** Containers on their way off a network, by `placeOf`. */
  readonly departures = new Removals((place) => {
    const [network = '', container = ''] = place.split(' ');
    return { op: 'networkDisconnect', network, container };
  });

  follow(): void {
    transport.open({ topic: 'networks' }, {
      update: (update) => {
        if (update.type !== 'networks') return;
        // The user's own first: the others are always there.
        this.rows = update.rows.toSorted((a, b) => Number(a.builtIn) - Number(b.builtIn) || a.name.localeCompare(b.name));
        this.loaded = true;
        const ids = new Set(update.rows.map((row) => row.id));
        this.removals.keep(ids);
        if (app.selectedNetwork !== null && !ids.has(app.selectedNetwork)) app.selectNetwork(null);
      },
    });
  }

  /** Rejects with a UiError. */
  async create(form: NetworkForm): Promise<void> {
    const reply = await transport.call({ op: 'networkCreate', form });
    app.go('networks');
    if (reply.type === 'made' && this.rows.some((row) => row.id === reply.id)) app.selectNetwork(reply.id);
  }

  /** Rejects with a UiError. */
  async connect(form: ConnectForm): Promise<void> {
    await transport.call({ op: 'networkConnect', form });
  }

  disconnect(network: NetworkRow, container: string): void {
    void this.departures.now(placeOf(network.id, container));
  }

  remove(row: NetworkRow): void {
    if (row.members.length > 0) void this.removals.now(row.id);
    else {
      this.removals.later(row.id);
      if (app.selectedNetwork === row.id) app.selectNetwork(null);
    }
  }

  /** Rejects with a UiError. */
  async prune(): Promise<void> {
    await transport.call({ op: 'networksPrune' });
  }

  /** Those a container can still be put on. */
  open(container: ContainerRow): readonly NetworkRow[] {
    return this.rows.filter((row) => isJoinable(row) && !container.networks.includes(row.name));
  }

  /** Those the user made. */
  get own(): readonly NetworkRow[] {
    return this.rows.filter((row) => !row.builtIn);
  }

  /** Those that no container has, running or not. */
  get unused(): readonly NetworkRow[] {
    const used = new Set([...containers.rows.values()].flatMap((row) => row.networks));
    return this.own.filter((row) => row.members.length === 0 && !used.has(row.name));
  }
}

/** A container's place on a network, by both ids. */
export function placeOf(network: string, container: string): string {
  return `${network} ${container}`;
}

/** Whether containers can be put on it, and taken off it. */
export function isJoinable(network: NetworkRow): boolean {
  return network.driver !== 'host' && network.driver !== 'null';
}

export const networks = new Networks();
