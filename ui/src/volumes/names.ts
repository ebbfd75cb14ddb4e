// How a volume is spoken of.

import type { VolumeKind } from '../generated/VolumeKind';
import type { VolumeRow } from '../generated/VolumeRow';

/** One that nobody named is cut like an id. */
export function shortName(row: VolumeRow): string {
  return row.anonymous ? row.name.slice(0, 12) : row.name;
}

/** Where its files are, if not where most volumes' are. */
export const KINDS: Record<VolumeKind, string> = { own: '', folder: 'folder', memory: 'memory', nfs: 'NFS', other: 'mounted' };
