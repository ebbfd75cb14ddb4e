// Who is on a network: those that run, and those that will be on it when they do.

import type { ContainerRow } from '../generated/ContainerRow';
import type { NetworkRow } from '../generated/NetworkRow';
import { containers } from '../state/containers.svelte';

/** Containers that have the network and don't run. */
export function waiting(network: NetworkRow): ContainerRow[] {
  const running = new Set(network.members.map((member) => member.id));
  return [...containers.rows.values()].filter((row) => row.networks.includes(network.name) && !running.has(row.id));
}

/** In a cell: how many are on it. */
export function words(network: NetworkRow, waiting: number): string {
  const count = network.members.length;
  if (count > 0) return `${count} container${count === 1 ? '' : 's'}`;
  return waiting > 0 ? `${waiting} not running` : 'Not used';
}
