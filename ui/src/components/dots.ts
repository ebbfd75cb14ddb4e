// States as shapes, on 12 × 12: clear in grey, in print and at this size.

export const dots = {
  done: '<path d="m1.75 6.5 2.75 2.75L10.25 3" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round"/>',
  exited: '<circle cx="6" cy="6" r="3.4" stroke-width="1.5"/>',
  failed: '<path d="m2.5 2.5 7 7M9.5 2.5l-7 7" stroke-width="2" stroke-linecap="round"/>',
  paused: '<rect x="2.25" y="2" width="2.75" height="8" rx=".75"/><rect x="7" y="2" width="2.75" height="8" rx=".75"/>',
  running: '<circle cx="6" cy="6" r="4"/>',
  starting: '<path d="M6 1.75A4.25 4.25 0 1 1 1.75 6" stroke-width="1.75" stroke-linecap="round"/>',
  unhealthy: '<path d="M6 1.2c.35 0 .66.18.84.48l4.3 7.4a.97.97 0 0 1-.84 1.45H1.7a.97.97 0 0 1-.84-1.45l4.3-7.4A.97.97 0 0 1 6 1.2Z"/>',
  waiting: '<circle cx="6" cy="6" r="3.4" stroke-width="1.25" stroke-dasharray="1.5 1.7"/>',
} as const;

export type DotName = keyof typeof dots;
