// Chooses how this window travels.

import type { Transport } from './transport';

export * from './transport';

/** Set once, before anything is drawn. */
export let transport: Transport;

export async function connect(): Promise<void> {
  if ('__TAURI_INTERNALS__' in window) {
    const { TauriTransport } = await import('./tauri');
    transport = new TauriTransport();
    return;
  }
  const { WebTransport, logIn } = await import('./web');
  await logIn();
  transport = new WebTransport();
}
