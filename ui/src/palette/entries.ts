// Everything the palette can find: actions, containers, images, volumes, networks, machines, places.

import type { MachineRow } from '../generated/MachineRow';
import type { ContainerRow } from '../generated/ContainerRow';
import type { DotName } from '../components/dots';
import type { IconName } from '../components/icons';
import { commandOf, quote } from '../lib/commands';
import { describe, verbs } from '../lib/describe';
import { bytes } from '../lib/format';
import { openUrl } from '../lib/open';
import { app } from '../state/app.svelte';
import { containers, WELCOME_COMMAND, welcomeForm } from '../state/containers.svelte';
import { engine } from '../state/engine.svelte';
import { images } from '../state/images.svelte';
import { machines } from '../state/machines.svelte';
import { networks } from '../state/networks.svelte';
import { volumes } from '../state/volumes.svelte';
import { ICONS, LABELS } from '../containers/verbs';
import { describe as describeMachine, isOn } from '../machines/words';

export type Group = 'Actions' | 'Containers' | 'Images' | 'Volumes' | 'Networks' | 'Machines' | 'Go to';

export interface Entry {
  id: string;
  group: Group;
  label: string;
  note: string;
  icon?: IconName;
  dot?: DotName;
  /** The command line of the same. */
  command: string;
  /** What Enter does, in a word. */
  verb: string;
  /** It ends something or takes it away. */
  grave?: boolean;
  run: () => void;
}

export function entries(now: number): Entry[] {
  const rows = [...containers.rows.values()];
  return [...general(), ...rows.flatMap((row) => ofContainer(row, now)), ...ofImages(), ...ofVolumes(), ...ofNetworks(), ...machines.rows.flatMap((row) => ofMachine(row, now))];
}

function general(): Entry[] {
  const place = (label: string, icon: IconName, command: string, run: () => void): Entry => ({
    id: `go ${label}`, group: 'Go to', label, note: '', icon, command, verb: 'go', run,
  });
  const list: Entry[] = [
    place('Containers', 'box', 'cove ps -a', () => app.go('containers')),
    place('Images', 'layers', 'cove images', () => app.go('images')),
    place('Volumes', 'cylinder', 'cove volume ls', () => app.go('volumes')),
    place('Networks', 'network', 'cove network ls', () => app.go('networks')),
    place('Machines', 'chip', 'cove machine ls', () => app.go('machines')),
  ];
  const action = (label: string, icon: IconName, command: string, run: () => void): Entry => ({
    id: `do ${label}`, group: 'Actions', label, note: '', icon, command, verb: 'open', run,
  });
  list.push(action('New machine…', 'chip', 'cove machine init', () => (app.createDialog = 'machine')));
  if (engine.ready) {
    list.push(action('Run a container…', 'plus', 'cove run', () => app.run()));
    list.push(action('Pull an image…', 'dl', 'cove pull', () => (app.pullDialog = true)));
    list.push(action('New volume…', 'cylinder', 'cove volume create', () => (app.createDialog = 'volume')));
    if (engine.state?.hasBridge) list.push(action('New network…', 'network', 'cove network create', () => (app.createDialog = 'network')));
    list.push({ ...action('Run the welcome container', 'play', WELCOME_COMMAND, () => { app.go('containers'); containers.run(welcomeForm()); }), verb: 'run' });
  } else {
    list.push({ ...action('Start the engine', 'play', 'cove info', () => void engine.start()), verb: 'start' });
  }
  return list;
}

function ofContainer(row: ContainerRow, now: number): Entry[] {
  const words = describe(row, now, containers.pending.get(row.id));
  const where = row.project ?? '';
  const port = row.ports[0] === undefined ? '' : `, :${row.ports[0].host}`;
  const list: Entry[] = verbs(row).map((verb) => ({
    id: `${verb} ${row.id}`, group: 'Actions', label: `${LABELS[verb]} ${row.title}`, note: where, icon: ICONS[verb],
    command: commandOf(verb, row), verb: LABELS[verb].toLowerCase(), grave: verb === 'remove' || verb === 'kill',
    run: () => (verb === 'remove' ? containers.remove(row.id) : void containers.act(row.id, verb)),
  }));
  list.push({
    id: `show ${row.id}`, group: 'Containers', label: row.title, note: [where, `${words.state.toLowerCase()}${port}`].filter(Boolean).join(', '),
    dot: words.shape, command: commandOf('inspect', row), verb: 'show', run: () => { app.go('containers'); app.select(row.id); },
  });
  list.push({ id: `logs ${row.id}`, group: 'Go to', label: `Logs of ${row.title}`, note: where, icon: 'text', command: commandOf('logs', row), verb: 'show', run: () => app.openTab(row.id, 'logs') });
  if (row.state === 'running') {
    list.push({ id: `shell ${row.id}`, group: 'Go to', label: `Terminal in ${row.title}`, note: where, icon: 'terminal', command: commandOf('exec', row), verb: 'open', run: () => app.openTab(row.id, 'terminal') });
  }
  list.push({ id: `network of ${row.id}`, group: 'Go to', label: `Network of ${row.title}`, note: where, icon: 'network', command: commandOf('inspect', row), verb: 'show', run: () => app.openTab(row.id, 'network') });
  for (const { host, url } of row.ports) {
    if (url !== null) list.push({ id: `open ${row.id} ${host}`, group: 'Go to', label: `localhost:${host} of ${row.title}`, note: where, icon: 'out', command: `xdg-open ${url}`, verb: 'open', run: () => openUrl(url) });
  }
  return list;
}

function ofImages(): Entry[] {
  return images.rows.filter((row) => row.name !== '').map((row) => ({
    id: `image ${row.reference}`, group: 'Images' as const, label: row.reference, note: bytes(row.size), icon: 'layers' as const,
    command: `cove run -d --network host ${quote(row.reference)}`, verb: 'show', run: () => { app.go('images'); app.selectImage(row.reference); },
  }));
}

function ofVolumes(): Entry[] {
  return volumes.rows.filter((row) => !row.anonymous).map((row) => ({
    id: `volume ${row.name}`, group: 'Volumes' as const, label: row.name, note: row.project ?? '', icon: 'cylinder' as const,
    command: `cove volume inspect ${quote(row.name)}`, verb: 'show', run: () => { app.go('volumes'); app.selectVolume(row.name); },
  }));
}

function ofNetworks(): Entry[] {
  return networks.rows.map((row) => ({
    id: `network ${row.id}`, group: 'Networks' as const, label: row.name, note: row.ranges[0]?.subnet ?? '', icon: 'network' as const,
    command: `cove network inspect ${quote(row.name)}`, verb: 'show', run: () => app.openNetwork(row.id),
  }));
}

function ofMachine(row: MachineRow, now: number): Entry[] {
  const { name } = row;
  const words = describeMachine(row, now, machines.doing.get(name));
  const act = (label: string, icon: IconName, command: string, run: () => void, grave = false): Entry => ({
    id: `machine ${label}`, group: 'Actions', label, note: 'machine', icon, command, verb: 'do', grave, run: () => { app.openMachine(name); run(); },
  });
  const list: Entry[] = [
    { id: `machine ${name}`, group: 'Machines', label: name, note: words.text.toLowerCase(), dot: words.shape, command: `cove machine status ${name}`, verb: 'show', run: () => app.openMachine(name) },
  ];
  if (row.phase === 'asleep') list.push(act(`Wake ${name}`, 'play', `cove machine start ${name}`, () => void machines.wake(name)));
  else if (!isOn(row)) list.push(act(`Start ${name}`, 'play', `cove machine start ${name}`, () => void machines.start(name)));
  else {
    list.push(act(`Stop ${name}`, 'stop', `cove machine stop ${name}`, () => void machines.stop(name)));
    if (row.settings.canSleep && row.phase === 'running') list.push(act(`Sleep ${name}`, 'moon', `cove machine sleep ${name}`, () => void machines.sleep(name)));
    list.push(act(`Restart ${name}`, 'restart', `cove machine stop ${name} && cove machine start ${name}`, () => void machines.restart(name)));
  }
  list.push(act(`Settings of ${name}…`, 'sliders', `cove machine set ${name}`, () => (app.machineDialog = { kind: 'settings', name })));
  list.push(act(`Console of ${name}`, 'text', `cove machine logs ${name}`, () => void machines.showLog(name, false)));
  list.push(act(`Rescue ${name}…`, 'case', `cove machine rescue ${name}`, () => (app.machineDialog = { kind: 'rescue', name })));
  list.push(act(`Reset ${name}…`, 'erase', `cove machine reset ${name}`, () => (app.machineDialog = { kind: 'reset', name }), true));
  list.push(act(`Remove ${name}…`, 'trash', `cove machine rm ${name}`, () => (app.machineDialog = { kind: 'remove', name }), true));
  return list;
}
