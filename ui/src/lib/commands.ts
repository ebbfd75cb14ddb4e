// The command line of what the window is about to do, for copying.

import type { ContainerRow } from '../generated/ContainerRow';
import type { Verb } from '../state/containers.svelte';

/** A word for a shell. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

const VERBS: Record<Verb, string> = {
  start: 'start', stop: 'stop', restart: 'restart', pause: 'pause', resume: 'unpause', kill: 'kill', remove: 'rm -f',
};

export function commandOf(verb: Verb | 'logs' | 'exec' | 'stats' | 'inspect', row: ContainerRow): string {
  const name = quote(row.name || row.id.slice(0, 12));
  switch (verb) {
    case 'logs':
      return `cove logs -f ${name}`;
    case 'exec':
      return `cove exec -it ${name} sh`;
    case 'stats':
      return `cove stats ${name}`;
    case 'inspect':
      return `cove inspect ${name}`;
    default:
      return `cove ${VERBS[verb]} ${name}`;
  }
}
