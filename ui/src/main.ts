// Starts the window: theme, transport, stores, then the drawing.

import './styles/tokens.css';
import './styles/base.css';
import './styles/window.css';
import { mount } from 'svelte';
import App from './App.svelte';
import { sentence } from './lib/format';
import { followTheme } from './lib/theme';
import { containers } from './state/containers.svelte';
import { engine } from './state/engine.svelte';
import { images } from './state/images.svelte';
import { machines } from './state/machines.svelte';
import { networks } from './state/networks.svelte';
import { volumes } from './state/volumes.svelte';
import { asError, connect } from './transport';

followTheme();
const target = document.querySelector<HTMLElement>('#app');
if (target === null) throw new Error('index.html has no #app');

try {
  await connect();
  engine.follow();
  containers.follow();
  images.follow();
  networks.follow();
  volumes.follow();
  machines.follow();
  mount(App, { target });
} catch (thrown) {
  // A browser that was not let in has no window to show it in.
  const error = asError(thrown);
  const page = document.createElement('div');
  page.className = 'refused';
  const title = document.createElement('h1');
  title.textContent = sentence(error.message);
  const hint = document.createElement('p');
  hint.textContent = sentence(error.hint ?? 'Open the address cove web printed');
  page.append(title, hint);
  target.append(page);
}
