import { expect, test } from 'vitest';
import { createCommand } from './command';

test('the command line of a network says what its form does', () => {
  expect(createCommand({ name: '', subnet: '', internal: false, ipv6: false })).toBe('cove network create NAME');
  expect(createCommand({ name: ' back end', subnet: '10.9.0.0/24, fd00::/64', internal: true, ipv6: true }))
    .toBe("cove network create --internal --ipv6 --subnet 10.9.0.0/24 --subnet fd00::/64 'back end'");
});
