import { expect, test } from 'vitest';
import type { ImageRow } from '../generated/ImageRow';
import type { VolumeRow } from '../generated/VolumeRow';
import { complete, completeVolume, emptyForm, isVolume, lacksSpare, parseEnv } from './form';

const image = (reference: string): ImageRow => {
  const [path = '', tag = ''] = reference.split(':');
  return { id: reference, reference, host: '', name: path.split('/').at(-1) ?? '', tag, createdAt: 0, size: 0, builtIn: false };
};

test('a pasted file of variables becomes lines', () => {
  expect(parseEnv('# db\nexport A=1\n B = "two words" \n\nC=\nnot a line\nURL=http://x/?a=b')).toEqual([
    { name: 'A', value: '1' }, { name: 'B', value: 'two words' }, { name: 'C', value: '' }, { name: 'URL', value: 'http://x/?a=b' },
  ]);
});

test('what begins with the typed text comes first', () => {
  const images = [image('acme/mypostgres:1'), image('postgres:17'), image('nginx:1')];
  expect(complete(images, 'post').map((i) => i.reference)).toEqual(['postgres:17', 'acme/mypostgres:1']);
});

test('volumes are offered by name, and not where a folder is meant', () => {
  const volume = (name: string, anonymous = false): VolumeRow => ({ name, anonymous, project: null, driver: 'local', mountpoint: '', createdAt: 0, kind: 'own', options: [], labels: [] });
  const all = [volume('mydata'), volume('data'), volume('0123data', true)];
  expect(completeVolume(all, 'dat').map((choice) => choice.value)).toEqual(['data', 'mydata']);
  expect(completeVolume(all, '/dat')).toEqual([]);
  expect(['pgdata', 'a', '~/src', '/srv', './x'].map(isVolume)).toEqual([true, false, false, false, false]);
});

test('a list ends with an empty line, and needs no second one', () => {
  const empty = (line: { name: string }) => line.name === '';
  expect(lacksSpare([], empty)).toBe(true);
  expect(lacksSpare([{ name: 'a' }], empty)).toBe(true);
  expect(lacksSpare([{ name: 'a' }, { name: '' }], empty)).toBe(false);
});

test('a form that starts from another shares nothing with it', () => {
  const env = [{ name: 'A', value: '1' }];
  const form = emptyForm({ image: 'x', env });
  form.env[0]!.value = '2';
  expect(env[0]!.value).toBe('1');
});
