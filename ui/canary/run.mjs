// Proves that svelte-check finds errors: it has been seen to pass everything in silence.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const ui = fileURLToPath(new URL('..', import.meta.url));
const check = spawnSync('npx', ['svelte-check', '--tsconfig', './canary/tsconfig.json', '--output', 'machine'], { cwd: ui, encoding: 'utf8' });
const found = /ERROR.*Broken\.svelte.*not assignable to type/.test(check.stdout);
if (check.status === 0 || !found) {
  console.error('svelte-check did not find the error in canary/Broken.svelte:\n' + check.stdout + check.stderr);
  process.exit(1);
}
console.log('svelte-check finds errors');
