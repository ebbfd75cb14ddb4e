// Opening a port, and saying so where that fails.

import { app } from '../state/app.svelte';
import { asError, transport } from '../transport';

export function openUrl(url: string): void {
  transport.openUrl(url).catch((thrown: unknown) => (app.notice = asError(thrown)));
}
