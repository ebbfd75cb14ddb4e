// How many rows each of very many lines takes, and the sums over them, in blocks.

const BLOCK = 1024;

export class RowIndex {
  #rows = new Uint16Array(BLOCK);
  #sums: number[] = [];
  #length = 0;
  #total = 0;

  get length(): number {
    return this.#length;
  }

  /** All rows. */
  get total(): number {
    return this.#total;
  }

  push(rows: number): void {
    if (this.#length === this.#rows.length) {
      const larger = new Uint16Array(this.#rows.length * 2);
      larger.set(this.#rows);
      this.#rows = larger;
    }
    const block = Math.floor(this.#length / BLOCK);
    this.#rows[this.#length++] = rows;
    this.#sums[block] = (this.#sums[block] ?? 0) + rows;
    this.#total += rows;
  }

  rows(line: number): number {
    return this.#rows[line] ?? 0;
  }

  /** Corrects a line's rows; returns by how much they changed. */
  set(line: number, rows: number): number {
    const change = rows - this.rows(line);
    if (change !== 0 && line < this.#length) {
      const block = Math.floor(line / BLOCK);
      this.#rows[line] = rows;
      this.#sums[block] = (this.#sums[block] ?? 0) + change;
      this.#total += change;
    }
    return change;
  }

  /** The rows above a line. */
  above(line: number): number {
    const block = Math.floor(line / BLOCK);
    let sum = 0;
    for (let i = 0; i < block; i++) sum += this.#sums[i] ?? 0;
    for (let i = block * BLOCK; i < line; i++) sum += this.#rows[i] ?? 0;
    return sum;
  }

  /** The line a row belongs to. */
  at(row: number): number {
    let block = 0;
    let left = row;
    while (block < this.#sums.length - 1 && left >= (this.#sums[block] ?? 0)) left -= this.#sums[block++] ?? 0;
    let line = block * BLOCK;
    while (line < this.#length - 1 && left >= (this.#rows[line] ?? 0)) left -= this.#rows[line++] ?? 0;
    return Math.min(line, Math.max(0, this.#length - 1));
  }

  clear(): void {
    this.#length = this.#total = 0;
    this.#sums = [];
  }
}
