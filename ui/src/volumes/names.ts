// A volume's name as it is read: one that nobody chose is cut like an id.

import type { VolumeRow } from '../generated/VolumeRow';

export function shortName(row: VolumeRow): string {
  return row.anonymous ? row.name.slice(0, 12) : row.name;
}
