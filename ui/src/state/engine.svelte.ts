// The engine: whether it answers, and starting it.

import type { EngineState } from '../generated/EngineState';
import type { UiError } from '../generated/UiError';
import { asError, transport } from '../transport';

class Engine {
  state = $state.raw<EngineState | null>(null);
  /** Asked for by the user, not yet answered. */
  starting = $state(false);
  /** Why the last attempt to start it failed. */
  failure = $state.raw<UiError | null>(null);
  log = $state<string | null>(null);

  get away(): boolean {
    return this.state?.state === 'away';
  }

  get ready(): boolean {
    return this.state?.state === 'running';
  }

  follow(): void {
    transport.open({ topic: 'engine' }, {
      update: (update) => {
        if (update.type !== 'engine') return;
        this.state = update;
        if (update.state === 'running') this.failure = this.log = null;
      },
    });
  }

  async start(): Promise<void> {
    this.starting = true;
    this.failure = null;
    try {
      await transport.call({ op: 'engineStart' });
    } catch (error) {
      this.failure = asError(error);
    } finally {
      this.starting = false;
    }
  }

  async showLog(): Promise<void> {
    try {
      const reply = await transport.call({ op: 'engineLog' });
      if (reply.type === 'text') this.log = reply.text || 'The log is empty.';
    } catch (error) {
      this.failure = asError(error);
    }
  }
}

export const engine = new Engine();
