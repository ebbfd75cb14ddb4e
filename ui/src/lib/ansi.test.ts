import { expect, test } from 'vitest';
import { parse, strip } from './ansi';

test('colours become classes and end with their reset', () => {
  expect(parse('\x1b[32mINFO\x1b[0m ready in \x1b[1;91m3\x1b[22m ms')).toEqual([
    { text: 'INFO', classes: 'a-green' },
    { text: ' ready in ', classes: '' },
    { text: '3', classes: 'a-bright-red a-bold' },
    { text: ' ms', classes: 'a-bright-red' },
  ]);
});

test('the large palettes are colours of their own', () => {
  expect(parse('\x1b[38;5;208mx')).toEqual([{ text: 'x', classes: '', color: 'rgb(255 135 0)' }]);
  expect(parse('\x1b[38;2;1;2;999mx')).toEqual([{ text: 'x', classes: '', color: 'rgb(1 2 255)' }]);
  expect(parse('\x1b[48;5;208;31mx')).toEqual([{ text: 'x', classes: 'a-red' }]);
});

test('cursor movements, titles and control characters leave nothing', () => {
  expect(strip('\x1b[2K\x1b[1Gdone\x1b]0;title\x07 \x1b(Bok\x08')).toBe('done ok');
});

test('a carriage return shows what was written last', () => {
  expect(strip('10%\r50%\r100%\r')).toBe('100%');
});

test('hostile sequences end in finite time', () => {
  const begun = performance.now();
  strip('\x1b['.repeat(50_000) + '\x1b]'.repeat(50_000));
  expect(performance.now() - begun).toBeLessThan(500);
});
