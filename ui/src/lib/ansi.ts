// Terminal colours in log lines: SGR sequences become classes, every other sequence goes.

export interface Segment {
  text: string;
  /** Classes of `styles/log.css`. */
  classes: string;
  /** A colour outside the sixteen. */
  color?: string;
}

const NAMES = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'];
// CSI, OSC (ended by BEL or ST), and the two-byte sequences.
// eslint-disable-next-line no-control-regex
const SEQUENCE = /\x1b(?:\[([0-9;:?<=>]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]/g;

interface Style {
  foreground: number | string | undefined;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

const PLAIN: Style = { foreground: undefined, bold: false, dim: false, italic: false, underline: false };

/** A line without its sequences. */
export function strip(line: string): string {
  const visible = afterReturn(line);
  return visible.includes('\x1b') ? visible.replace(SEQUENCE, '').replace(CONTROL, '') : visible.replace(CONTROL, '');
}

/** A line in pieces of one style. */
export function parse(line: string): Segment[] {
  const visible = afterReturn(line);
  if (!visible.includes('\x1b')) return [{ text: visible.replace(CONTROL, ''), classes: '' }];
  const segments: Segment[] = [];
  let style = PLAIN;
  let from = 0;
  const push = (text: string) => {
    const clean = text.replace(CONTROL, '');
    if (clean !== '') segments.push({ text: clean, ...describe(style) });
  };
  for (const match of visible.matchAll(SEQUENCE)) {
    push(visible.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] === 'm') style = apply(style, match[1] ?? '');
  }
  push(visible.slice(from));
  return segments;
}

/** What a carriage return leaves to see: progress bars write over themselves. */
function afterReturn(line: string): string {
  if (!line.includes('\r')) return line;
  const parts = line.split('\r');
  return parts.findLast((part) => part !== '') ?? '';
}

function describe(style: Style): { classes: string; color?: string } {
  const classes = [];
  let color: string | undefined;
  if (typeof style.foreground === 'number') {
    const name = NAMES[style.foreground % 8];
    classes.push(style.foreground >= 8 ? `a-bright-${name}` : `a-${name}`);
  } else if (style.foreground !== undefined) {
    color = style.foreground;
  } else if (style.dim) {
    classes.push('a-dim');
  }
  if (style.bold) classes.push('a-bold');
  if (style.italic) classes.push('a-italic');
  if (style.underline) classes.push('a-underline');
  return color === undefined ? { classes: classes.join(' ') } : { classes: classes.join(' '), color };
}

function apply(before: Style, parameters: string): Style {
  const style = { ...before };
  const codes = parameters === '' ? [0] : parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] ?? 0;
    if (code === 0) Object.assign(style, PLAIN);
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code >= 30 && code <= 37) style.foreground = code - 30;
    else if (code >= 90 && code <= 97) style.foreground = code - 90 + 8;
    else if (code === 39) style.foreground = undefined;
    else if (code === 38 || code === 48) {
      const [color, used] = extended(codes.slice(i + 1));
      if (code === 38) style.foreground = color;
      i += used;
    }
  }
  return style;
}

/** `5;N` or `2;R;G;B` */
function extended(codes: number[]): [number | string | undefined, number] {
  if (codes[0] === 5) {
    const index = codes[1] ?? 0;
    return [index < 16 ? index : palette(index), 2];
  }
  if (codes[0] === 2) {
    const [r, g, b] = [codes[1], codes[2], codes[3]].map((value) => Math.min(255, Math.max(0, value ?? 0)));
    return [`rgb(${r} ${g} ${b})`, 4];
  }
  return [undefined, 1];
}

function palette(index: number): string {
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const level = (value: number) => (value === 0 ? 0 : 55 + value * 40);
  const cube = index - 16;
  return `rgb(${level(Math.floor(cube / 36))} ${level(Math.floor(cube / 6) % 6)} ${level(cube % 6)})`;
}
