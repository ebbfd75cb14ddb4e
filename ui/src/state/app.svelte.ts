// What the window shows: section, selection, dialogs. Nothing of the engine.

import type { NetworkRow } from '../generated/NetworkRow';
import type { RunForm } from '../generated/RunForm';
import type { UiError } from '../generated/UiError';
import type { VolumeRow } from '../generated/VolumeRow';

export type Section = 'containers' | 'images' | 'volumes' | 'networks' | 'machines';
export type Tab = 'logs' | 'terminal' | 'stats' | 'network' | 'inspect';

/** What a dialog about a machine is for. */
export type MachineDialog =
  | { kind: 'settings' | 'reset' | 'rescue' | 'remove'; name: string }
  | { kind: 'text'; name: string; title: string; text: string; command: string };

class App {
  section = $state<Section>('containers');
  /** A container's id, the detail pane's subject. */
  selected = $state<string | null>(null);
  /** An image's reference. */
  selectedImage = $state<string | null>(null);
  /** A network's id. */
  selectedNetwork = $state<string | null>(null);
  /** A volume's name. */
  selectedVolume = $state<string | null>(null);
  /** A machine's name. */
  selectedMachine = $state<string | null>(null);
  /** Stays when the selection changes. */
  tab = $state<Tab>('logs');
  /** Whether the detail pane has the window to itself. */
  wide = $state(false);
  palette = $state(false);
  pullDialog = $state(false);
  /** The dialog for a new object. */
  createDialog = $state<'network' | 'volume' | 'machine' | null>(null);
  machineDialog = $state.raw<MachineDialog | null>(null);
  /** The dialog that puts a container on a network, with the one it starts from, by id. */
  connectDialog = $state.raw<{ network: string } | { container: string } | null>(null);
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

  selectNetwork(id: string | null): void {
    this.selectedNetwork = id;
  }

  selectVolume(name: string | null): void {
    this.selectedVolume = name;
  }

  selectMachine(name: string | null): void {
    this.selectedMachine = name;
  }

  openMachine(name: string): void {
    this.go('machines');
    this.selectMachine(name);
  }

  openNetwork(id: string): void {
    this.go('networks');
    this.selectNetwork(id);
  }

  openTab(id: string, tab: Tab): void {
    this.go('containers');
    this.select(id);
    this.tab = tab;
  }

  run(from: Partial<RunForm> = {}): void {
    this.palette = this.pullDialog = false;
    this.createDialog = this.connectDialog = this.machineDialog = null;
    this.runDialog = from;
  }

  /** The run dialog for a container on a network. */
  runOn({ name }: NetworkRow): void {
    this.run({ network: name === 'host' || name === 'bridge' || name === 'none' ? name : { named: name } });
  }

  /** The run dialog for a container with a volume. */
  runWith({ name }: VolumeRow): void {
    this.run({ mounts: [{ source: name, target: '', readOnly: false }] });
  }

  get modal(): boolean {
    return this.palette || this.pullDialog || this.createDialog !== null || this.connectDialog !== null || this.machineDialog !== null || this.runDialog !== null;
  }
}

export const app = new App();
