import { expect, test } from 'vitest';
import { fuzzy, pieces } from './search';

const best = (query: string, texts: string[]) =>
  texts.map((text) => ({ text, match: fuzzy(text, query) }))
    .filter(({ match }) => match !== undefined)
    .sort((a, b) => (b.match?.score ?? 0) - (a.match?.score ?? 0))
    .map(({ text }) => text);

test('the start of a word comes before its middle', () => {
  expect(best('re api', ['Remove api', 'Store rapid', 'api-replay', 'Stop web'])).toEqual(['Remove api', 'api-replay', 'Store rapid']);
});

test('letters in order are found where they are close', () => {
  expect(fuzzy('grafana', 'gfn')?.at).toEqual([0, 3, 5]);
  expect(fuzzy('go to the images of this machine now', 'gxn')).toBeUndefined();
});

test('an empty query finds everything', () => {
  expect(fuzzy('anything', '')?.at).toEqual([]);
});

test('a match is shown where it is', () => {
  expect(pieces('Restart', [0, 1])).toEqual([{ text: 'Re', hit: true }, { text: 'start', hit: false }]);
});
