// Image references as people write them.

/** A reference as the list shows it: with its tag, without what every reference of its kind begins with. */
export function canonical(typed: string): string {
  const reference = typed.trim().replace(/^docker\.io\//, '').replace(/^library\//, '');
  const last = reference.slice(reference.lastIndexOf('/') + 1);
  return last.includes(':') || last.includes('@') ? reference : `${reference}:latest`;
}
