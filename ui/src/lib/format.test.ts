import { expect, test } from 'vitest';
import { ago, bytes, bytesOf, percent, sentence, span } from './format';

test('sizes have at most three digits', () => {
  expect([0, 999, 1000, 17_900_000, 286e6, 999_960_000, 1.27e9, 1.6e12].map(bytes)).toEqual([
    '0 B', '999 B', '1 kB', '18 MB', '286 MB', '1 GB', '1.3 GB', '1.6 TB',
  ]);
});

test('the unit stands once where both have it', () => {
  expect(bytesOf(41e6, 96e6)).toBe('41 of 96 MB');
  expect(bytesOf(900e3, 96e6)).toBe('900 kB of 96 MB');
});

test('spans are read at a glance', () => {
  const h = 3_600_000;
  expect([26_000, 12 * 60_000, 3 * h, 30 * h, 9 * 24 * h, 21 * 24 * h, 70 * 24 * h].map(span)).toEqual([
    '26 s', '12 min', '3 h', '30 h', '9 days', '3 weeks', '2 months',
  ]);
  expect(ago(1000, 1500)).toBe('just now');
  expect(span(-5)).toBe('0 s');
});

test('an error is a sentence', () => {
  expect(sentence('no such container: web')).toBe('No such container: web.');
  expect(sentence('Done!')).toBe('Done!');
});

test('a busy machine has no decimals', () => {
  expect([0.04, 12.44, 340.6].map(percent)).toEqual(['0.0%', '12.4%', '341%']);
});
