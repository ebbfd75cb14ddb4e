// A container in words: what its row says in grey while all is well, and in colour when not.

import type { ContainerRow } from '../generated/ContainerRow';
import type { Shape } from '../generated/Shape';
import type { Draft, Pending, Verb } from '../state/containers.svelte';
import { ago, bytesOf, span } from './format';

export interface Words {
  shape: Shape;
  /** What stands in the place of the image, if not the image. */
  trouble: string | null;
  /** For the state's column and the page's head. */
  state: string;
}

export const DOING: Record<Verb, string> = {
  start: 'Starting', stop: 'Stopping', restart: 'Restarting', pause: 'Pausing', resume: 'Resuming', kill: 'Killing',
  remove: 'Removing',
};

/** Past this an action says how long it has been going on; past the second there is a way out. */
export const SLOW_MS = 2000;
export const STUCK_MS = 10_000;

export function describe(row: ContainerRow, now: number, pending?: Pending): Words {
  if (pending !== undefined) {
    const passed = now - pending.since;
    const doing = DOING[pending.verb];
    const words = passed < SLOW_MS ? doing : `${doing}, ${span(passed)}`;
    return { shape: 'starting', trouble: words, state: words };
  }
  const words = state(row, now);
  const well = row.shape === 'running';
  return { shape: row.shape, trouble: well ? null : words, state: words };
}

function state(row: ContainerRow, now: number): string {
  const running = row.startedAt === null ? 'Running' : `Running ${span(now - row.startedAt)}`;
  const ended = row.finishedAt === null ? '' : `, ${ago(row.finishedAt, now)}`;
  switch (row.state) {
    case 'running':
      if (row.health === 'unhealthy') return `Unhealthy, ${row.failingStreak} check${row.failingStreak === 1 ? '' : 's'} failed`;
      if (row.health === 'starting') return 'Waiting for its health check';
      return row.health === 'healthy' ? `${running}, healthy` : running;
    case 'paused':
      return 'Paused';
    case 'restarting':
      return `Restarting after exit ${row.exitCode ?? ''}`.trim();
    case 'removing':
      return 'Removing';
    case 'created':
      return row.error === null ? 'Never started' : 'Could not start';
    case 'dead':
      return 'Could not be removed';
    default:
      if (row.oomKilled) return `Out of memory${ended}`;
      return `Exited ${row.exitCode ?? ''}`.trim() + ended;
  }
}

/** A run that has no container yet. */
export function describeDraft(draft: Draft, now: number): string {
  if (draft.error !== null) return 'Could not run';
  const passed = now - draft.since < SLOW_MS ? '' : `, ${span(now - draft.since)}`;
  switch (draft.stage) {
    case 'pulling':
      if (draft.transfer === null || draft.transfer.total === 0) return `Pulling the image${passed}`;
      if (draft.transfer.current >= draft.transfer.total) return `Unpacking the image${passed}`;
      return `Pulling ${bytesOf(draft.transfer.current, draft.transfer.total)}`;
    case 'starting':
      return `Starting${passed}`;
    default:
      return `Creating${passed}`;
  }
}

/** What can be done to a container as it is: the first two stand on its row. */
export function verbs(row: ContainerRow): Verb[] {
  switch (row.state) {
    case 'running':
      return ['restart', 'stop', 'pause', 'kill', 'remove'];
    case 'paused':
      return ['resume', 'stop', 'kill', 'remove'];
    case 'restarting':
      return ['stop', 'kill', 'remove'];
    case 'removing':
      return [];
    default:
      return ['start', 'remove'];
  }
}
