// In the desktop window: Tauri's IPC. The only folder that may import @tauri-apps.

import { Channel, invoke } from '@tauri-apps/api/core';
import { listen } from '@tauri-apps/api/event';
import type { Command } from '../../generated/Command';
import type { Input } from '../../generated/Input';
import type { Reply } from '../../generated/Reply';
import type { Topic } from '../../generated/Topic';
import type { UiError } from '../../generated/UiError';
import type { Update } from '../../generated/Update';
import type { Handlers, Subscription, Transport } from '../transport';

export class TauriTransport implements Transport {
  // A reloaded page begins anew, and its ids must not meet those of the page before.
  #next = Math.floor(Math.random() * 0x7fff_ffff);

  call(command: Command): Promise<Reply> {
    return invoke<Reply>('call', { command });
  }

  open(topic: Topic, handlers: Handlers): Subscription {
    const id = this.#next++;
    let open = true;
    const channel = new Channel<Update | ArrayBuffer | null>((message) => {
      if (!open) return;
      if (message === null) {
        open = false;
        handlers.end?.();
      } else if (message instanceof ArrayBuffer) {
        handlers.bytes?.(new Uint8Array(message));
      } else {
        handlers.update(message);
      }
    });
    // Inputs must not overtake each other, nor the opening.
    let last: Promise<unknown> = invoke('open', { id, topic, channel });
    const follow = (name: string, args: Record<string, unknown>) => {
      last = last.then(() => invoke(name, args)).catch((error: unknown) => console.error(name, error));
    };
    return {
      send: (input: Input) => follow('send', { id, input }),
      close: () => {
        open = false;
        follow('close', { id });
      },
    };
  }

  async openUrl(url: string): Promise<void> {
    await invoke('open_url', { url });
  }

  onTray(handlers: { run: () => void; failed: (error: UiError) => void }): void {
    void listen('run', handlers.run);
    void listen<UiError>('failed', ({ payload }) => handlers.failed(payload));
  }
}
