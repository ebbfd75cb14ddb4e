// All containers, what is being done to them, and what went wrong with it.

import { SvelteMap } from 'svelte/reactivity';
import type { Command } from '../generated/Command';
import type { ContainerRow } from '../generated/ContainerRow';
import type { RunForm } from '../generated/RunForm';
import type { Stage } from '../generated/Stage';
import type { Transfer } from '../generated/Transfer';
import type { UiError } from '../generated/UiError';
import { asError, transport, type Subscription } from '../transport';
import { app } from './app.svelte';

export type Verb = 'start' | 'stop' | 'restart' | 'pause' | 'resume' | 'kill' | 'remove';

export interface Pending {
  verb: Verb;
  since: number;
}

export interface Failure {
  verb: Verb;
  error: UiError;
}

/** A container that is being made. */
export interface Draft {
  key: string;
  form: RunForm;
  since: number;
  stage: Stage | null;
  transfer: Transfer | null;
  error: UiError | null;
}

/** How long a removal can be taken back. */
export const UNDO_MS = 5000;

const COMMANDS: Record<Verb, (id: string) => Command> = {
  start: (id) => ({ op: 'containerStart', id }),
  stop: (id) => ({ op: 'containerStop', id }),
  restart: (id) => ({ op: 'containerRestart', id }),
  pause: (id) => ({ op: 'containerPause', id }),
  resume: (id) => ({ op: 'containerResume', id }),
  kill: (id) => ({ op: 'containerKill', id }),
  remove: (id) => ({ op: 'containerRemove', id, force: true }),
};

class Containers {
  rows = $state.raw<ReadonlyMap<string, ContainerRow>>(new Map());
  loaded = $state(false);
  readonly pending = new SvelteMap<string, Pending>();
  readonly failures = new SvelteMap<string, Failure>();
  /** Removed for the eye, not yet in fact. */
  readonly leaving = new SvelteMap<string, ReturnType<typeof setTimeout>>();
  drafts = $state<Draft[]>([]);
  #runs = new Map<string, Subscription>();
  #keys = 0;

  follow(): void {
    transport.open({ topic: 'containers' }, {
      update: (update) => {
        if (update.type === 'containers') {
          this.rows = new Map(update.rows.map((row) => [row.id, row]));
          this.loaded = true;
          if (app.selected !== null && !this.rows.has(app.selected)) app.select(null);
        } else if (update.type === 'changed') {
          const rows = new Map(this.rows);
          for (const row of update.rows) rows.set(row.id, row);
          for (const id of update.removed) {
            rows.delete(id);
            this.failures.delete(id);
            if (app.selected === id) app.select(null);
          }
          this.rows = rows;
        }
      },
    });
    // A window that goes away has no time left to be asked to undo.
    window.addEventListener('pagehide', () => {
      for (const id of this.leaving.keys()) void transport.call(COMMANDS.remove(id));
    });
  }

  async act(id: string, verb: Verb): Promise<void> {
    this.failures.delete(id);
    const mine: Pending = { verb, since: Date.now() };
    this.pending.set(id, mine);
    try {
      await transport.call(COMMANDS[verb](id));
    } catch (error) {
      // A way out that was taken meanwhile explains the failure of what it cut short.
      if (this.pending.get(id) === mine) this.failures.set(id, { verb, error: asError(error) });
    } finally {
      if (this.pending.get(id) === mine) this.pending.delete(id);
    }
  }

  /** Takes a container out of sight, and removes it when that was not undone in time. */
  remove(id: string): void {
    if (this.leaving.has(id)) return;
    this.failures.delete(id);
    const timer = setTimeout(() => {
      this.leaving.delete(id);
      void this.act(id, 'remove');
    }, UNDO_MS);
    this.leaving.set(id, timer);
    if (app.selected === id) app.select(null);
  }

  undo(id: string): void {
    clearTimeout(this.leaving.get(id));
    this.leaving.delete(id);
  }

  run(form: RunForm): void {
    const key = `draft-${++this.#keys}`;
    this.drafts.push({ key, form, since: Date.now(), stage: null, transfer: null, error: null });
    const change = (to: Partial<Draft>) => {
      const draft = this.drafts.find((draft) => draft.key === key);
      if (draft !== undefined) Object.assign(draft, to);
    };
    const run = transport.open({ topic: 'run', form }, {
      update: (update) => {
        if (update.type === 'stage') change({ stage: update.stage });
        else if (update.type === 'transfer') change({ transfer: update });
        else if (update.type === 'failed') change({ error: update });
        else if (update.type === 'done') {
          this.dismiss(key);
          if (update.id !== null && app.section === 'containers') app.select(update.id);
        }
      },
      end: () => {
        const draft = this.drafts.find((draft) => draft.key === key);
        if (draft !== undefined && draft.error === null) {
          change({ error: { kind: 'unavailable', message: 'The engine went away meanwhile' } });
        }
      },
    });
    this.#runs.set(key, run);
  }

  /** Cancels a run, or takes its error away. */
  dismiss(key: string): void {
    this.#runs.get(key)?.close();
    this.#runs.delete(key);
    this.drafts = this.drafts.filter((draft) => draft.key !== key);
  }

  get running(): number {
    let count = 0;
    for (const row of this.rows.values()) if (row.state === 'running' || row.state === 'paused') count++;
    return count;
  }
}

export const containers = new Containers();

/** The form of the one-click welcome. */
export function welcomeForm(): RunForm {
  const taken = [...containers.rows.values()].some((row) => row.name === 'welcome');
  return {
    image: 'cove/welcome:latest', name: taken ? '' : 'welcome', command: '', env: [], mounts: [], cpus: '', memory: '',
    onExit: 'keep', network: 'host', ports: [],
  };
}

export const WELCOME_COMMAND = 'cove run --network host cove/welcome';
