// Things on their way out: out of sight for as long as it can be undone, then removed in fact.

import { SvelteMap, SvelteSet } from 'svelte/reactivity';
import type { Command } from '../generated/Command';
import type { UiError } from '../generated/UiError';
import { asError, transport } from '../transport';
import { UNDO_MS } from './containers.svelte';

export class Removals {
  readonly failures = new SvelteMap<string, UiError>();
  readonly busy = new SvelteSet<string>();
  readonly leaving = new SvelteMap<string, ReturnType<typeof setTimeout>>();
  readonly #command: (key: string) => Command;

  constructor(command: (key: string) => Command) {
    this.#command = command;
    // A window that goes away has no time left to be asked to undo.
    window.addEventListener('pagehide', () => {
      for (const key of this.leaving.keys()) void transport.call(command(key));
    });
  }

  /** Removes it when that was not undone in time. */
  later(key: string): void {
    if (this.leaving.has(key)) return;
    this.failures.delete(key);
    this.leaving.set(key, setTimeout(() => {
      this.leaving.delete(key);
      void this.now(key);
    }, UNDO_MS));
  }

  /** Removes it at once: for what will be refused, there is nothing to undo. */
  async now(key: string): Promise<void> {
    this.failures.delete(key);
    this.busy.add(key);
    try {
      await transport.call(this.#command(key));
    } catch (error) {
      this.failures.set(key, asError(error));
    } finally {
      this.busy.delete(key);
    }
  }

  undo(key: string): void {
    clearTimeout(this.leaving.get(key));
    this.leaving.delete(key);
  }

  /** Forgets about what is not there any more. */
  keep(keys: ReadonlySet<string>): void {
    for (const key of this.failures.keys()) if (!keys.has(key)) this.failures.delete(key);
    for (const key of this.leaving.keys()) if (!keys.has(key)) this.undo(key);
  }
}
