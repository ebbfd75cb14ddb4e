// Which containers use which image.

import type { ContainerRow } from '../generated/ContainerRow';
import { containers } from '../state/containers.svelte';

/** By the image's id. */
export function usage(): Map<string, ContainerRow[]> {
  const used = new Map<string, ContainerRow[]>();
  for (const row of containers.rows.values()) used.set(row.imageId, [...(used.get(row.imageId) ?? []), row]);
  return used;
}
