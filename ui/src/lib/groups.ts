// The container list's order: projects by name, what has none last; inside by title.

import type { ContainerRow } from '../generated/ContainerRow';

export interface Group {
  key: string;
  name: string;
  rows: ContainerRow[];
  running: number;
}

const LOOSE = '';

/**
 * Groups in order. While the pointer is over the list, `held` is the order it had: known rows keep
 * their place in it and new ones come after them.
 */
export function group(rows: Iterable<ContainerRow>, held?: readonly string[]): Group[] {
  const groups = new Map<string, Group>();
  for (const row of rows) {
    const key = row.project ?? LOOSE;
    let group = groups.get(key);
    if (group === undefined) {
      group = { key, name: key === LOOSE ? 'No project' : key, rows: [], running: 0 };
      groups.set(key, group);
    }
    group.rows.push(row);
    if (row.state === 'running' || row.state === 'restarting') group.running++;
  }
  const place = new Map(held?.map((id, index) => [id, index]));
  for (const group of groups.values()) {
    group.rows.sort((a, b) => {
      const [x, y] = [place.get(a.id) ?? Infinity, place.get(b.id) ?? Infinity];
      return x !== y ? (x < y ? -1 : 1) : compare(a.title, b.title) || compare(a.id, b.id);
    });
  }
  return [...groups.values()].sort((a, b) => {
    if ((a.key === LOOSE) !== (b.key === LOOSE)) return a.key === LOOSE ? 1 : -1;
    return compare(a.name, b.name);
  });
}

const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });

function compare(a: string, b: string): number {
  return collator.compare(a, b);
}

/** Whether a container passes what was typed into the filter: every word somewhere. */
export function matches(row: ContainerRow, filter: string): boolean {
  const text = `${row.name} ${row.title} ${row.project ?? ''} ${row.image} ${row.state} ${row.id.slice(0, 12)} ${row.ports.map((port) => `:${port.host}`).join(' ')}`.toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
