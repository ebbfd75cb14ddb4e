// The run form while it is filled in.

import type { ImageRow } from '../generated/ImageRow';
import type { RunForm } from '../generated/RunForm';
import type { VolumeRow } from '../generated/VolumeRow';

export function emptyForm(from: Partial<RunForm>): RunForm {
  const form: RunForm = {
    image: '', name: '', command: '', env: [], mounts: [], cpus: '', memory: '', onExit: 'keep', network: 'host', ports: [], ...from,
  };
  return { ...form, env: form.env.map((line) => ({ ...line })), mounts: form.mounts.map((line) => ({ ...line })), ports: form.ports.map((line) => ({ ...line })) };
}

/** Whether a list has no empty line at its end to type into. */
export function lacksSpare<T>(lines: readonly T[], isEmpty: (line: T) => boolean): boolean {
  const last = lines.at(-1);
  return last === undefined || !isEmpty(last);
}

/** `NAME=value` lines as a file of them is pasted; comments and blank lines go. */
export function parseEnv(text: string): { name: string; value: string }[] {
  return text.split(/\r?\n/).flatMap((line) => {
    const match = /^\s*(?:export\s+)?([^#=\s][^=\s]*)\s*=\s*(.*)$/.exec(line);
    if (match?.[1] === undefined) return [];
    const value = match[2]?.trim() ?? '';
    const quoted = /^(["'])(.*)\1$/.exec(value);
    return [{ name: match[1], value: quoted?.[2] ?? value }];
  });
}

/** Images whose reference holds what was typed; those whose name begins with it first. */
export function complete(images: readonly ImageRow[], typed: string): ImageRow[] {
  const text = typed.trim().toLowerCase();
  const named = images.filter((image) => image.name !== '' && image.reference.toLowerCase().includes(text));
  const rank = (image: ImageRow) => (image.reference.toLowerCase().startsWith(text) || image.name.toLowerCase().startsWith(text) ? 0 : 1);
  return named.toSorted((a, b) => rank(a) - rank(b)).slice(0, 8);
}

/** Volumes whose name holds what was typed, unless that is a folder or a volume's whole name. */
export function completeVolume(volumes: readonly VolumeRow[], typed: string): { value: string }[] {
  const text = typed.trim().toLowerCase();
  if (/^[/~.]/.test(text)) return [];
  const named = volumes.filter((volume) => !volume.anonymous && volume.name.toLowerCase().includes(text) && volume.name !== typed.trim());
  const rank = (volume: VolumeRow) => (volume.name.toLowerCase().startsWith(text) ? 0 : 1);
  return named.toSorted((a, b) => rank(a) - rank(b)).slice(0, 8).map((volume) => ({ value: volume.name }));
}

/** Whether the source of a mount is a volume's name, and no folder. */
export function isVolume(source: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]+$/.test(source.trim());
}

/** Whether a variable's value should not be looked at over a shoulder. The host decides the same. */
export function isSecret(name: string): boolean {
  return /PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|PRIVATE_KEY/i.test(name);
}
