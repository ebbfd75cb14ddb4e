// Finding things and actions by a few letters.

/** Where each letter of a match stands, and how good it is; nothing if it is none. */
export interface Match {
  score: number;
  at: number[];
}

const STARTS = /[\s/:_.-]/;

/** Every word of the query must be found; the start of a word counts most, gaps count against. */
export function fuzzy(text: string, query: string): Match | undefined {
  const lower = text.toLowerCase();
  const at: number[] = [];
  let score = 0;
  for (const word of query.toLowerCase().split(/\s+/)) {
    if (word === '') continue;
    const found = findWord(lower, word);
    if (found === undefined) return undefined;
    score += found.score;
    at.push(...found.at);
  }
  return { score: score - text.length / 100, at: [...new Set(at)].sort((a, b) => a - b) };
}

function findWord(text: string, word: string): Match | undefined {
  const whole = wordStart(text, word);
  const index = whole >= 0 ? whole : text.indexOf(word);
  if (index >= 0) {
    const start = index === 0 || STARTS.test(text[index - 1] ?? '');
    return { score: word.length * (start ? 4 : 2), at: Array.from(word, (_, i) => index + i) };
  }
  // Letters in order, if they are close together.
  const at: number[] = [];
  let from = 0;
  for (const letter of word) {
    const index = text.indexOf(letter, from);
    if (index < 0 || (at.length > 0 && index - from > 6)) return undefined;
    at.push(index);
    from = index + 1;
  }
  return { score: word.length - (from - (at[0] ?? 0)) / 10, at };
}

function wordStart(text: string, word: string): number {
  for (let i = text.indexOf(word); i >= 0; i = text.indexOf(word, i + 1)) {
    if (i === 0 || STARTS.test(text[i - 1] ?? '')) return i;
  }
  return -1;
}

/** A text in pieces, those that match marked. */
export function pieces(text: string, at: readonly number[]): { text: string; hit: boolean }[] {
  const hits = new Set(at);
  const pieces: { text: string; hit: boolean }[] = [];
  for (let i = 0; i < text.length; i++) {
    const hit = hits.has(i);
    const last = pieces.at(-1);
    if (last?.hit === hit) last.text += text[i];
    else pieces.push({ text: text[i] ?? '', hit });
  }
  return pieces;
}
