import { expect, test } from 'vitest';
import type { ContainerRow } from '../generated/ContainerRow';
import { group, matches } from './groups';

function row(id: string, project: string | null, state = 'running'): ContainerRow {
  return {
    id, name: id, title: id, project, image: 'nginx:1', imageId: '', command: '', shape: 'running', state,
    failingStreak: 0, exitCode: null, oomKilled: false, error: null, health: null, createdAt: 0, startedAt: 0,
    finishedAt: null, ports: [{ host: 8080, container: 80, protocol: 'tcp', url: null }], network: 'host', networks: [], endpoints: [], volumes: [], autoRemove: false,
  };
}

const names = (groups: ReturnType<typeof group>) => groups.map((g) => [g.name, g.rows.map((r) => r.id)]);

test('projects come by name, the rest last', () => {
  const groups = group([row('z', null), row('web', 'shop'), row('api', 'shop', 'exited'), row('a10', 'blog'), row('a9', 'blog')]);
  expect(names(groups)).toEqual([
    ['blog', ['a9', 'a10']],
    ['shop', ['api', 'web']],
    ['No project', ['z']],
  ]);
  expect(groups[1]?.running).toBe(1);
});

test('a held order keeps rows in place and puts new ones after them', () => {
  const held = ['c', 'a'];
  expect(names(group([row('a', null), row('b', null), row('c', null)], held))).toEqual([['No project', ['c', 'a', 'b']]]);
});

test('every word must be found somewhere', () => {
  expect(matches(row('web', 'shop'), 'sho :8080')).toBe(true);
  expect(matches(row('web', 'shop'), 'shop db')).toBe(false);
  expect(matches(row('web', null), '')).toBe(true);
});
