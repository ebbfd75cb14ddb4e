import { expect, test } from 'vitest';
import type { ContainerRow } from '../generated/ContainerRow';
import { describe, verbs } from './describe';

const NOW = 1_800_000_000_000;

function row(change: Partial<ContainerRow>): ContainerRow {
  return {
    id: 'a', name: 'web', title: 'web', project: null, image: 'nginx', imageId: '', command: '', shape: 'exited',
    state: 'exited', failingStreak: 0, exitCode: null, oomKilled: false, error: null, health: null,
    createdAt: NOW, startedAt: null, finishedAt: null, ports: [], network: 'host', networks: [], endpoints: [], volumes: [], autoRemove: false, ...change,
  };
}

test('while all is well the row shows its image', () => {
  const words = describe(row({ state: 'running', shape: 'running', startedAt: NOW - 3 * 3_600_000 }), NOW);
  expect(words).toEqual({ shape: 'running', trouble: null, state: 'Running 3 h' });
});

test('trouble says what it is', () => {
  const say = (change: Partial<ContainerRow>) => describe(row(change), NOW).trouble;
  expect(say({ exitCode: 0, finishedAt: NOW - 3 * 3_600_000 })).toBe('Exited 0, 3 h ago');
  expect(say({ oomKilled: true, exitCode: 137, finishedAt: NOW - 60_000 })).toBe('Out of memory, 1 min ago');
  expect(say({ state: 'running', shape: 'unhealthy', health: 'unhealthy', failingStreak: 1 })).toBe('Unhealthy, 1 check failed');
  expect(say({ state: 'created' })).toBe('Never started');
});

test('an action shows at once, and its time when it takes long', () => {
  const web = row({ state: 'running', shape: 'running' });
  expect(describe(web, NOW, { verb: 'stop', since: NOW }).trouble).toBe('Stopping');
  expect(describe(web, NOW, { verb: 'stop', since: NOW - 4000 }).trouble).toBe('Stopping, 4 s');
});

test('only what its state allows is offered', () => {
  expect(verbs(row({ state: 'running' }))).toContain('stop');
  expect(verbs(row({ state: 'exited' }))).toEqual(['start', 'remove']);
  expect(verbs(row({ state: 'removing' }))).toEqual([]);
});
