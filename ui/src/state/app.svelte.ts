// What the window shows: section, selection, dialogs. Nothing of the engine.

import type { RunForm } from '../generated/RunForm';
import type { UiError } from '../generated/UiError';

export type Section = 'containers' | 'images';
export type Tab = 'logs' | 'terminal' | 'stats' | 'inspect';

class App {
  section = $state<Section>('containers');
  /** A container's id, the detail pane's subject. */
  selected = $state<string | null>(null);
  /** An image's reference. */
  selectedImage = $state<string | null>(null);
  /** Stays when the selection changes. */
  tab = $state<Tab>('logs');
  /** Whether the detail pane has the window to itself. */
  wide = $state(false);
  palette = $state(false);
  pullDialog = $state(false);
  /** The run dialog, with what it starts from. */
  runDialog = $state.raw<Partial<RunForm> | null>(null);
  /** An error that has no other place. */
  notice = $state.raw<UiError | null>(null);
  /** Raised when the list should take the focus. */
  focusList = $state(0);
  focusFilter = $state(0);

  go(section: Section): void {
    this.section = section;
    this.wide = false;
  }

  select(id: string | null): void {
    this.selected = id;
    if (id === null) this.wide = false;
  }

  selectImage(reference: string | null): void {
    this.selectedImage = reference;
  }

  openTab(id: string, tab: Tab): void {
    this.go('containers');
    this.select(id);
    this.tab = tab;
  }

  run(from: Partial<RunForm> = {}): void {
    this.palette = this.pullDialog = false;
    this.runDialog = from;
  }

  get modal(): boolean {
    return this.palette || this.pullDialog || this.runDialog !== null;
  }
}

export const app = new App();
