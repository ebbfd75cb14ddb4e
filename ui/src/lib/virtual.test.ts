import { expect, test } from 'vitest';
import { Layout } from './virtual';

const layout = new Layout([28, 32, 32, 116, 36]);

test('the rows in sight are found by height', () => {
  expect(layout.total).toBe(244);
  expect([0, 27, 28, 92, 207, 208, 9999].map((y) => layout.at(y))).toEqual([0, 0, 1, 3, 3, 4, 4]);
  expect(layout.range(30, 100, 0)).toEqual([1, 4]);
  expect(layout.range(30, 100, 9)).toEqual([0, 5]);
});

test('an empty list has no rows in sight', () => {
  expect(new Layout([]).range(0, 100, 3)).toEqual([0, 0]);
});

test('revealing scrolls no further than it must', () => {
  expect(layout.reveal(1, 0, 100)).toBe(0);
  expect(layout.reveal(3, 0, 150)).toBe(58);
  expect(layout.reveal(0, 40, 100)).toBe(0);
});
