// How an action looks.

import type { IconName } from '../components/icons';
import type { Verb } from '../state/containers.svelte';

export const ICONS: Record<Verb, IconName> = {
  start: 'play', stop: 'stop', restart: 'restart', pause: 'pause', resume: 'play', kill: 'bolt', remove: 'trash',
};

export const LABELS: Record<Verb, string> = {
  start: 'Start', stop: 'Stop', restart: 'Restart', pause: 'Pause', resume: 'Resume', kill: 'Kill', remove: 'Remove',
};

/** What a failed action is called on its row. */
export const FAILED: Record<Verb, string> = {
  start: 'Could not start', stop: 'Could not stop', restart: 'Could not restart', pause: 'Could not pause',
  resume: 'Could not resume', kill: 'Could not be killed', remove: 'Could not be removed',
};
