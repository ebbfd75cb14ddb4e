import { utimesSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [
    svelte(),
    {
      // crates/host/build.rs watches index.html, since it can't watch a dist that isn't there yet.
      name: 'tell-cargo',
      apply: 'build',
      closeBundle() {
        const now = new Date();
        utimesSync(new URL('index.html', import.meta.url), now, now);
      },
    },
  ],
  // What Debian 12's WebKitGTK and every browser of the last two years can read.
  build: { target: ['safari16.4', 'chrome111', 'firefox113'], modulePreload: { polyfill: false }, reportCompressedSize: false },
  server: { port: 5173, strictPort: true },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
