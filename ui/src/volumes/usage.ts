// Which containers have which volume, and where.

import type { ContainerRow } from '../generated/ContainerRow';
import type { VolumeUse } from '../generated/VolumeUse';
import { containers } from '../state/containers.svelte';

export interface User {
  row: ContainerRow;
  use: VolumeUse;
}

/** By the volume's name. */
export function usage(): Map<string, User[]> {
  const used = new Map<string, User[]>();
  for (const row of containers.rows.values()) {
    for (const use of row.volumes) used.set(use.name, [...(used.get(use.name) ?? []), { row, use }]);
  }
  return used;
}

/** In a cell: how many containers have it. */
export function words(users: readonly User[]): string {
  const count = new Set(users.map(({ row }) => row.id)).size;
  return count === 0 ? 'Not used' : `${count} container${count === 1 ? '' : 's'}`;
}
