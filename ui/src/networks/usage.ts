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

/** Why a container can be on no other network than it is; null if it can. */
export function alone(container: ContainerRow): string | null {
  if (container.network === 'host') return 'It uses this computer’s own network, and can be on no other.';
  if (container.network === 'none') return 'It was made without a network, and can be on none.';
  if (container.network.startsWith('container:')) return 'It shares the network of another container, and can be on no other.';
  return null;
}

/** Containers that can be put on the network, those that run first. */
export function joinable(network: NetworkRow): ContainerRow[] {
  const on = new Set(network.members.map((member) => member.id));
  return [...containers.rows.values()]
    .filter((row) => alone(row) === null && !row.networks.includes(network.name) && !on.has(row.id))
    .toSorted((a, b) => Number(b.state === 'running') - Number(a.state === 'running') || a.name.localeCompare(b.name));
}
