// Light, dark or contrast, as the system prefers, from the first frame on.

const contrast = matchMedia('(prefers-contrast: more)');
const dark = matchMedia('(prefers-color-scheme: dark)');

function apply(): void {
  document.documentElement.dataset.theme = contrast.matches ? 'contrast' : dark.matches ? 'dark' : 'light';
}

export function followTheme(): void {
  apply();
  for (const query of [contrast, dark]) query.addEventListener('change', apply);
  document.documentElement.dataset.platform = navigator.userAgent.includes('Mac') ? 'mac' : navigator.userAgent.includes('Windows') ? 'windows' : 'linux';
}

export const mac = navigator.userAgent.includes('Mac');
/** `Ctrl K` or `⌘K` */
export const combo = (key: string) => (mac ? `⌘${key}` : `Ctrl ${key}`);
