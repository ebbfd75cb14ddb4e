import { expect, test } from 'vitest';
import { ERROR, found, LogBuffer, matcher, MOST_LINES, spans, STDERR, WARN } from './logbuffer';
import { RowIndex } from './rowindex';

test('lines keep their output, level and visible length', () => {
  const log = new LogBuffer();
  log.add('INFO ready\n\x1b[31mERROR\x1b[0m no\n    at x.js:1\nlevel=warn slow\nplain\ta', [1, 2, 3, 4, 5], [1, 2]);
  expect(log.flags).toEqual([0, STDERR | ERROR, STDERR | ERROR, WARN, 0]);
  expect(log.lengths).toEqual([10, 8, 13, 15, 9]);
  expect(log.texts[4]).toBe('plain   a');
});

test('an empty line in a batch stays a line', () => {
  const log = new LogBuffer();
  log.add('\n', [1, 2], []);
  expect(log.texts).toEqual(['', '']);
});

test('beyond a million the oldest lines go', () => {
  const log = new LogBuffer();
  const some = 100_000;
  const text = 'x\n'.repeat(some).slice(0, -1);
  const times = Array.from({ length: some }, (_, i) => i);
  let dropped = 0;
  for (let i = 0; i < 11; i++) dropped += log.add(text, times, []);
  expect(log.length + dropped).toBe(11 * some);
  expect(log.length).toBeLessThanOrEqual(MOST_LINES);
  expect(log.dropped).toBe(dropped);
});

test('a query is text unless it is said to be a pattern', () => {
  const find = (text: string, regex: boolean, caseful = false) => {
    const pattern = matcher({ text, regex, caseful });
    return pattern instanceof RegExp ? found('GET /a.b \x1b[32m200\x1b[0m', pattern) : pattern;
  };
  expect(find('a.b', false)).toBe(true);
  expect(find('axb', false)).toBe(false);
  expect(find('a.b 200', false)).toBe(true);
  expect(find('get', false, true)).toBe(false);
  expect(find('[', true)).toBe(null);
  expect(find('', true)).toBe(undefined);
});

test('matches are where they are seen', () => {
  const pattern = matcher({ text: 'o', regex: false, caseful: false }) as RegExp;
  expect(spans('foo', pattern)).toEqual([[1, 2], [2, 3]]);
  expect(spans('foo', /x*/g)).toEqual([]);
});

test('rows are summed and found across blocks', () => {
  const index = new RowIndex();
  for (let i = 0; i < 5000; i++) index.push(i % 3 === 0 ? 2 : 1);
  expect(index.total).toBe(5000 + 1667);
  for (const line of [0, 1, 1023, 1024, 3333, 4999]) {
    expect(index.at(index.above(line))).toBe(line);
    expect(index.at(index.above(line) + index.rows(line) - 1)).toBe(line);
  }
  expect(index.set(2000, 7)).toBe(6);
  expect(index.above(2001) - index.above(2000)).toBe(7);
  expect(index.at(index.above(2000) + 6)).toBe(2000);
  expect(index.at(1e9)).toBe(4999);
});
