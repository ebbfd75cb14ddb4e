// The command line that makes the network of a form.

import type { NetworkForm } from '../generated/NetworkForm';
import { quote } from '../lib/commands';

export function createCommand(form: NetworkForm): string {
  const subnets = form.subnet.split(/[,\s]+/).filter((subnet) => subnet !== '');
  const name = form.name.trim();
  return [
    'cove network create', ...(form.internal ? ['--internal'] : []), ...(form.ipv6 ? ['--ipv6'] : []),
    ...subnets.map((subnet) => `--subnet ${quote(subnet)}`), name === '' ? 'NAME' : quote(name),
  ].join(' ');
}
