// How a window reaches the engine's host. One interface, two ways to travel: see index.ts.

import type { Command } from '../generated/Command';
import type { Input } from '../generated/Input';
import type { Reply } from '../generated/Reply';
import type { Topic } from '../generated/Topic';
import type { UiError } from '../generated/UiError';
import type { Update } from '../generated/Update';

export interface Handlers {
  update(update: Update): void;
  /** A terminal's output; to be acknowledged with its length. */
  bytes?(bytes: Uint8Array): void;
  /** Nothing more will come. */
  end?(): void;
}

export interface Subscription {
  send(input: Input): void;
  close(): void;
}

export interface Transport {
  /** Rejects with a UiError. */
  call(command: Command): Promise<Reply>;
  open(topic: Topic, handlers: Handlers): Subscription;
  /** Opens a container's port in a browser. */
  openUrl(url: string): Promise<void>;
  /** What the tray asks the window for; a browser has none. */
  onTray?(handlers: { run: () => void; failed: (error: UiError) => void }): void;
}

/** Whatever was thrown, as an error to show. */
export function asError(thrown: unknown): UiError {
  if (typeof thrown === 'object' && thrown !== null && 'kind' in thrown && 'message' in thrown) {
    return thrown as UiError;
  }
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return { kind: 'internal', message };
}
