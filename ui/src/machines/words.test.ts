import { expect, test } from 'vitest';
import type { MachineRow } from '../generated/MachineRow';
import { describe, exactSize, givenBack, isOn, ofSize, size, took, whileOf } from './words';

const row: MachineRow = {
  name: 'dev', phase: 'running', stages: [], stageSince: null, startedAt: 0, endedAt: null, detail: '', acceleration: '', kernel: '',
  settings: { backend: 'uml', cpus: 2, memory: 2 ** 30, disk: 2 ** 33, shares: [], image: null, canSleep: false, sleepAfter: null, sshAgent: false, rosetta: false }, restartNeeded: false, usage: null,
  diskHere: 0, ports: [], warnings: [], failure: null, engine: 'machine://dev',
};

test('a machine is told in a few words', () => {
  const text = (change: Partial<MachineRow>) => describe({ ...row, ...change }, 3 * 3_600_000).text;
  expect(text({})).toBe('Running 3 h');
  expect(text({ warnings: ['a share'] })).toBe('Running 3 h, with 1 problem');
  expect(text({ phase: 'stopped', startedAt: null })).toBe('Never started');
  const stages = [{ stage: 'kernel' as const, state: 'now' as const, took: null, deadline: 90_000 }];
  expect(text({ phase: 'starting', stages, stageSince: 3 * 3_600_000 - 1500 })).toBe('Booting Linux');
  expect(text({ phase: 'starting', stages, stageSince: 3 * 3_600_000 - 12_000 })).toBe('Booting Linux, 12 s');
  expect(describe(row, 5000, { what: 'Restarting', since: 0 }).text).toBe('Restarting, 5 s');
});

test('one that sleeps takes nothing and is woken', () => {
  expect(describe({ ...row, phase: 'asleep' }, 0)).toEqual({ shape: 'paused', text: 'Asleep: the first call wakes it' });
  expect(isOn({ ...row, phase: 'asleep' })).toBe(false);
  expect([45, 600, 7200].map(whileOf)).toEqual(['45 s', '10 min', '2 h']);
});

test('sizes are those that were typed', () => {
  expect([2 ** 30, 3 * 2 ** 29, 512 * 2 ** 20, 64 * 2 ** 30].map(size)).toEqual(['1 GB', '1.5 GB', '512 MB', '64 GB']);
  expect([2 ** 30, 3 * 2 ** 29, 2 ** 30 + 1].map(exactSize)).toEqual(['1 GB', '1536 MB', '1073741825']);
  expect([ofSize(2 ** 31, 2 ** 33), ofSize(2 ** 29, 2 ** 33)]).toEqual(['8', '8 GB']);
  expect([38, 640, 12_000].map(took)).toEqual(['38 ms', '0.6 s', '12 s']);
});

test('what was given back is counted from the most there was', () => {
  const point = (at: number, memoryHere: number) => ({ at, memory: 0, memoryHere, diskHere: 0 });
  const past = [point(1, 2 ** 30), point(2, 2 ** 31), point(3, 2 ** 30)];
  expect(givenBack(past, 'memoryHere')).toEqual({ bytes: 2 ** 30, since: 2 });
  expect(givenBack(past.slice(0, 2), 'memoryHere')).toBeUndefined();
  expect(givenBack(past, 'diskHere')).toBeUndefined();
  expect(givenBack([], 'memoryHere')).toBeUndefined();
});
