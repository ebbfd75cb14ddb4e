// A form while it is filled in: its command line, and what is wrong with the fields that were left.

import { SvelteSet } from 'svelte/reactivity';
import type { Command } from '../generated/Command';
import type { Preview } from '../generated/Preview';
import { transport } from '../transport';

let pressed = false;
addEventListener('pointerdown', () => (pressed = true), true);
for (const end of ['pointerup', 'pointercancel']) addEventListener(end, () => (pressed = false), true);

export class FormCheck {
  preview = $state.raw<Preview | null>(null);
  /** Fields that were left, whose problems may be told. */
  #touched = new SvelteSet<string>();
  #all = $state(false);
  readonly #command: () => Command;

  /** While a component is made: `command` asks for the form's preview, and is run again as the form changes. */
  constructor(command: () => Command) {
    this.#command = command;
    $effect(() => {
      let current = true;
      transport.call(command()).then(
        (reply) => {
          if (current && reply.type === 'preview') this.preview = reply;
        },
        // An engine is not asked: without its host there is no window either.
        () => {},
      );
      return () => (current = false);
    });
  }

  /** What is wrong with a field, once it may be told. */
  problem(field: string): string | undefined {
    if (!this.#all && !this.#touched.has(field)) return undefined;
    return this.preview?.problems.find((problem) => problem.field === field)?.message;
  }

  /** A field was left. Its problem is told, but not between the press and the release of a button it would push away. */
  touch(field: string): void {
    if (pressed) addEventListener('pointerup', () => setTimeout(() => this.#touched.add(field)), { once: true });
    else this.#touched.add(field);
  }

  /** Begins anew with a field that means something else now. */
  forget(field: string): void {
    this.#touched.delete(field);
  }

  /** Tells all problems of the form as it is now; whether there is none. */
  async passes(): Promise<boolean> {
    this.#all = true;
    const reply = await transport.call(this.#command());
    if (reply.type !== 'preview') return false;
    this.preview = reply;
    return reply.problems.length === 0;
  }

  /** The command line, by words. */
  words(program = 'cove'): string[] {
    return [program, ...(this.preview?.words ?? [])];
  }
}
