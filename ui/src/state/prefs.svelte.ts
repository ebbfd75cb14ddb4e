// What a user has set and expects to find again. Kept by the webview; nothing breaks without it.

const KEY = 'cove';

interface Stored {
  times?: boolean;
  wrap?: boolean;
  listWidth?: number;
}

function read(): Stored {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? '{}') as Stored;
  } catch {
    return {};
  }
}

class Prefs {
  #stored = read();
  #times = $state(this.#stored.times ?? true);
  #wrap = $state(this.#stored.wrap ?? true);
  #listWidth = $state(this.#stored.listWidth ?? 440);

  get times(): boolean {
    return this.#times;
  }
  set times(value: boolean) {
    this.#times = value;
    this.#keep();
  }
  get wrap(): boolean {
    return this.#wrap;
  }
  set wrap(value: boolean) {
    this.#wrap = value;
    this.#keep();
  }
  /** The list's width beside an open page. */
  get listWidth(): number {
    return this.#listWidth;
  }
  set listWidth(value: number) {
    this.#listWidth = value;
    this.#keep();
  }

  #keep(): void {
    try {
      localStorage.setItem(KEY, JSON.stringify({ times: this.#times, wrap: this.#wrap, listWidth: this.#listWidth }));
    } catch {
      // A webview that keeps nothing forgets it, which harms nobody.
    }
  }
}

export const prefs = new Prefs();
