// Which rows of a long list are in sight.

export class Layout {
  readonly offsets: Float64Array;

  constructor(heights: readonly number[]) {
    this.offsets = new Float64Array(heights.length + 1);
    heights.forEach((height, index) => (this.offsets[index + 1] = this.top(index) + height));
  }

  get length(): number {
    return this.offsets.length - 1;
  }

  get total(): number {
    return this.top(this.length);
  }

  top(index: number): number {
    return this.offsets[index] ?? 0;
  }

  /** The row at a height: the last one that begins at or above it. */
  at(y: number): number {
    let [low, high] = [0, Math.max(0, this.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.top(middle) <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The rows between two heights, and `over` more on each side; the second is exclusive. */
  range(top: number, bottom: number, over: number): [number, number] {
    if (this.length === 0) return [0, 0];
    return [Math.max(0, this.at(top) - over), Math.min(this.length, this.at(bottom) + 1 + over)];
  }

  /** Where to scroll so that a row is in sight; nowhere if it is. */
  reveal(index: number, top: number, height: number): number {
    const [begin, end] = [this.top(index), this.top(index + 1)];
    if (begin < top) return begin;
    return end > top + height ? end - height : top;
  }
}
