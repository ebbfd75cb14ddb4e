// A machine in words: how it stands, what its stages are called, its sizes.

import type { MachineRow } from '../generated/MachineRow';
import type { MachineStage } from '../generated/MachineStage';
import type { StageRow } from '../generated/StageRow';
import type { DotName } from '../components/dots';
import { SLOW_MS } from '../lib/describe';
import { ago, span } from '../lib/format';
import type { Doing, Point } from '../state/machines.svelte';

export const STAGES: Record<MachineStage, string> = {
  image: 'Check the guest image', disk: 'Open the disk', hypervisor: 'Make the machine', kernel: 'Boot Linux', agent: 'Reach the guest',
  shares: 'Share your folders', network: 'Connect the network', engine: 'Start the engine',
};

/** While it is under way. */
const DOING: Record<MachineStage, string> = {
  image: 'Checking the guest image', disk: 'Opening the disk', hypervisor: 'Making the machine', kernel: 'Booting Linux', agent: 'Reaching the guest',
  shares: 'Sharing your folders', network: 'Connecting the network', engine: 'Starting the engine',
};

export const BACKENDS = { qemu: 'QEMU', uml: 'User Mode Linux', vz: 'Virtualization.framework', wsl2: 'WSL2', hyperv: 'Hyper-V' } as const;

export interface Words {
  shape: DotName;
  text: string;
}

/** How it stands, in a few words. */
export function describe(row: MachineRow, now: number, doing?: Doing): Words {
  const passed = (since: number | null) => (since === null || now - since < SLOW_MS ? '' : `, ${span(now - since)}`);
  const at = row.stages.find((stage) => stage.state === 'now');
  if (row.phase === 'starting') return { shape: 'starting', text: `${at === undefined ? 'Starting' : DOING[at.stage]}${passed(row.stageSince)}` };
  if (doing !== undefined) return { shape: 'starting', text: `${doing.what}${passed(doing.since)}` };
  const since = row.startedAt === null ? '' : ` ${span(now - row.startedAt)}`;
  const ended = row.endedAt === null ? '' : `, ${ago(row.endedAt, now)}`;
  const problems = row.warnings.length;
  switch (row.phase) {
    case 'running':
      if (row.detail !== '') return { shape: 'unhealthy', text: capital(row.detail) };
      return problems === 0
        ? { shape: 'running', text: `Running${since}` }
        : { shape: 'unhealthy', text: `Running${since}, with ${problems} problem${problems === 1 ? '' : 's'}` };
    case 'rescue':
      return { shape: 'paused', text: 'Rescue: its disk is read-only, its engine off' };
    case 'fallingAsleep':
      return { shape: 'starting', text: 'Falling asleep' };
    case 'asleep':
      return { shape: 'paused', text: 'Asleep: the first call wakes it' };
    case 'stopping':
      return { shape: 'starting', text: 'Stopping' };
    case 'failed': {
      const stage = row.failure?.stage;
      return { shape: 'failed', text: `${stage == null ? 'Went away by itself' : 'Could not start'}${ended}` };
    }
    case 'silent':
      return { shape: 'failed', text: 'Not answering' };
    case 'stopped':
      return { shape: 'exited', text: row.endedAt === null ? 'Never started' : `Stopped${ended}` };
  }
}

/** Whether there is something to stop. */
export function isOn(row: MachineRow): boolean {
  return row.phase !== 'stopped' && row.phase !== 'failed' && row.phase !== 'asleep';
}

/** The stage as people read it, with the kernel that boots. */
export function stageName(stage: StageRow, kernel: string): string {
  return stage.stage === 'kernel' && kernel !== '' ? `Boot Linux ${kernel}` : STAGES[stage.stage];
}

/** `38 ms`, `0.6 s`, `12 s` */
export function took(millis: number): string {
  if (millis < 100) return `${millis} ms`;
  return millis < 9950 ? `${(millis / 1000).toFixed(1)} s` : span(millis);
}

/** All that is done. */
export function total(stages: readonly StageRow[]): number {
  return stages.reduce((sum, stage) => sum + (stage.took ?? 0), 0);
}

/** A time as it is typed: `10 min` */
export function whileOf(seconds: number): string {
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}

const UNITS: [number, string][] = [[2 ** 40, 'TB'], [2 ** 30, 'GB'], [2 ** 20, 'MB'], [2 ** 10, 'kB']];

/** `1.5 GB`, in the powers of 1024 that a machine's sizes are typed in. */
export function size(bytes: number): string {
  for (const [unit, name] of UNITS) {
    if (bytes >= unit) {
      const count = bytes / unit;
      return `${count < 9.95 ? count.toFixed(1).replace(/\.0$/, '') : Math.round(count)} ${name}`;
    }
  }
  return `${bytes} B`;
}

/** A size that is read as the same again. */
export function exactSize(bytes: number): string {
  for (const [unit, name] of UNITS) if (bytes > 0 && bytes % unit === 0) return `${bytes / unit} ${name}`;
  return String(bytes);
}

/** `8` where the part was told in the same unit, else `8 GB`. */
export function ofSize(part: number, whole: number): string {
  const [a, b] = [size(part), size(whole)];
  return a.split(' ')[1] === b.split(' ')[1] ? (b.split(' ')[0] ?? b) : b;
}

/** How much less than at its most something takes, and since when; nothing where that is not worth a word. */
export function givenBack(past: readonly Point[], of: 'memoryHere' | 'diskHere'): { bytes: number; since: number } | undefined {
  const last = past.at(-1);
  if (last === undefined) return undefined;
  const most = past.reduce((most, point) => (point[of] > most[of] ? point : most), last);
  const bytes = most[of] - last[of];
  return bytes < 2 ** 26 || bytes < most[of] / 20 ? undefined : { bytes, since: most.at };
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
