// All machines, how they went lately, and what is being done to them.

import { SvelteMap } from 'svelte/reactivity';
import type { MachineForm } from '../generated/MachineForm';
import type { MachineOrder } from '../generated/MachineOrder';
import type { MachineRow } from '../generated/MachineRow';
import type { UiError } from '../generated/UiError';
import { asError, transport } from '../transport';
import { app } from './app.svelte';

/** What a machine used at a moment. */
export interface Point {
  at: number;
  memory: number;
  memoryHere: number;
  diskHere: number;
}

export interface Doing {
  /** `Restarting` */
  what: string;
  since: number;
}

/** What is kept of each machine's past. */
export const PAST_MS = 600_000;

class Machines {
  rows = $state.raw<readonly MachineRow[]>([]);
  loaded = $state(false);
  /** What was asked for and is not answered yet, by name. */
  readonly doing = new SvelteMap<string, Doing>();
  /** What went wrong with that. */
  readonly failures = new SvelteMap<string, UiError>();
  /** The last ten minutes, by name. */
  readonly past = new SvelteMap<string, readonly Point[]>();

  follow(): void {
    transport.open({ topic: 'machines' }, {
      update: (update) => {
        if (update.type !== 'machines') return;
        this.rows = update.rows;
        this.loaded = true;
        for (const row of update.rows) this.#remember(row);
        const names = new Set(update.rows.map((row) => row.name));
        for (const known of [this.failures, this.past]) for (const name of known.keys()) if (!names.has(name)) known.delete(name);
        if (app.selectedMachine !== null && !names.has(app.selectedMachine)) app.selectMachine(null);
      },
    });
  }

  /** The one that is looked at. */
  get current(): MachineRow | undefined {
    return this.rows.find((row) => row.name === app.selectedMachine) ?? this.rows[0];
  }

  #remember(row: MachineRow): void {
    if (row.usage === null) {
      this.past.delete(row.name);
      return;
    }
    const known = this.past.get(row.name) ?? [];
    const { at, memory, memoryHere } = row.usage;
    if (known.at(-1)?.at === at) return;
    const point = { at, memory, memoryHere: memoryHere ?? 0, diskHere: row.diskHere };
    this.past.set(row.name, [...known.filter((point) => at - point.at < PAST_MS && point.at < at), point]);
  }

  /** Has something done to a machine; what goes wrong is told on its page. Whether it worked. */
  async act(name: string, what: string, order: MachineOrder): Promise<boolean> {
    this.failures.delete(name);
    this.doing.set(name, { what, since: Date.now() });
    try {
      await transport.call({ op: 'machine', order });
      return true;
    } catch (error) {
      this.failures.set(name, asError(error));
      return false;
    } finally {
      this.doing.delete(name);
    }
  }

  start = (name: string) => this.act(name, 'Starting', { do: 'start', name });
  stop = (name: string) => this.act(name, 'Stopping', { do: 'stop', name });
  sleep = (name: string) => this.act(name, 'Falling asleep', { do: 'sleep', name });
  wake = (name: string) => this.act(name, 'Waking', { do: 'start', name });
  kill = (name: string) => this.act(name, 'Ending', { do: 'kill', name });
  restart = (name: string) => this.act(name, 'Restarting', { do: 'restart', name });
  rescue = (name: string) => this.act(name, 'Starting the rescue', { do: 'rescue', name });
  giveBack = (name: string) => this.act(name, 'Giving back', { do: 'giveBack', name });

  /** Does what helps; what it finds is shown. */
  async remedy(row: MachineRow): Promise<void> {
    const { name, failure } = row;
    if (failure?.deed === 'shares') {
      app.machineDialog = { kind: 'settings', name };
      return;
    }
    if (failure?.deed === 'log') return this.showLog(name, false);
    this.failures.delete(name);
    this.doing.set(name, { what: failure?.deed === 'check' ? 'Walking its network' : 'Trying', since: Date.now() });
    try {
      const reply = await transport.call({ op: 'machine', order: { do: 'remedy', name } });
      if (reply.type === 'text') app.machineDialog = { kind: 'text', name, title: `The network of ${name}`, text: reply.text, command: failure?.command ?? '' };
    } catch (error) {
      this.failures.set(name, asError(error));
    } finally {
      this.doing.delete(name);
    }
  }

  /** Shows the end of what the console, or whoever looks after the machine, said. */
  async showLog(name: string, supervisor: boolean): Promise<void> {
    this.failures.delete(name);
    try {
      const reply = await transport.call({ op: 'machine', order: { do: 'log', name, supervisor } });
      if (reply.type !== 'text') return;
      app.machineDialog = {
        kind: 'text', name, title: supervisor ? `Cove’s log of ${name}` : `Console of ${name}`, text: reply.text || 'It has said nothing yet.',
        command: `cove machine logs ${name}${supervisor ? ' --supervisor' : ''}`,
      };
    } catch (error) {
      this.failures.set(name, asError(error));
    }
  }

  /** What a new one would be, and why of its kind. Rejects with a UiError. */
  async defaults(): Promise<{ form: MachineForm; reason: string | null } | undefined> {
    const reply = await transport.call({ op: 'machine', order: { do: 'defaults' } });
    return reply.type === 'machine' ? reply : undefined;
  }

  /** Rejects with a UiError. */
  async create(form: MachineForm, start: boolean): Promise<void> {
    await transport.call({ op: 'machine', order: { do: 'init', form } });
    app.openMachine(form.name.trim());
    if (start) void this.start(form.name.trim());
  }

  /** Rejects with a UiError. */
  async change(form: MachineForm): Promise<void> {
    await transport.call({ op: 'machine', order: { do: 'set', form } });
  }

  /** Rejects with a UiError. */
  async remove(name: string): Promise<void> {
    await transport.call({ op: 'machine', order: { do: 'remove', name } });
  }
}

export const machines = new Machines();
