import { expect, test } from 'vitest';
import { canonical } from './reference';

test('a reference gets the tag it means', () => {
  expect(canonical('docker.io/library/nginx')).toBe('nginx:latest');
  expect(canonical('localhost:5000/acme/api')).toBe('localhost:5000/acme/api:latest');
  expect(canonical(' ghcr.io/acme/api:dev ')).toBe('ghcr.io/acme/api:dev');
  expect(canonical('nginx@sha256:ab')).toBe('nginx@sha256:ab');
});
