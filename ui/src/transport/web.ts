// In a browser: fetch for commands, one WebSocket for all topics. crates/host/src/web/socket.rs
// describes the messages.

import type { Command } from '../generated/Command';
import type { Reply } from '../generated/Reply';
import type { Topic } from '../generated/Topic';
import type { Update } from '../generated/Update';
import type { Handlers, Subscription, Transport } from './transport';

const RETRY_MS = 1000;

interface Open {
  topic: Topic;
  handlers: Handlers;
}

/**
 * Shows the token of the address bar once, and takes it out, so that it is in no history. A browser
 * that has been let in before needs none.
 */
export async function logIn(): Promise<void> {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token !== null) history.replaceState(null, '', location.pathname);
  const answer = await fetch('/session', { method: 'POST', body: token ?? '' });
  if (!answer.ok) throw await answer.json();
}

/** Topics that go on as if nothing had been when the connection comes back. */
function resumes(topic: Topic): boolean {
  return ['engine', 'containers', 'images', 'machines', 'stats'].includes(topic.topic);
}

export class WebTransport implements Transport {
  #socket: WebSocket | undefined;
  #open = new Map<number, Open>();
  #queue: string[] = [];
  #next = 1;

  async call(command: Command): Promise<Reply> {
    let answer: Response;
    try {
      answer = await fetch('/rpc', { method: 'POST', body: JSON.stringify(command) });
    } catch {
      throw { kind: 'unavailable', message: 'cove web has ended', hint: 'start it again and open the address it prints' };
    }
    const body = await answer.json();
    if (!answer.ok) throw body;
    return body as Reply;
  }

  open(topic: Topic, handlers: Handlers): Subscription {
    const id = this.#next++;
    this.#open.set(id, { topic, handlers });
    this.#send(JSON.stringify({ open: id, topic }));
    return {
      send: (input) => this.#send(JSON.stringify({ to: id, input })),
      close: () => {
        if (this.#open.delete(id)) this.#send(JSON.stringify({ close: id }));
      },
    };
  }

  async openUrl(url: string): Promise<void> {
    window.open(url, '_blank', 'noopener');
  }

  #send(text: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(text);
      return;
    }
    this.#queue.push(text);
    if (this.#socket === undefined) this.#connect();
  }

  #connect(): void {
    const socket = new WebSocket(`ws://${location.host}/ws`);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    socket.onopen = () => {
      for (const text of this.#queue) socket.send(text);
      this.#queue = [];
    };
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (typeof event.data === 'string') this.#text(event.data);
      else this.#bytes(event.data);
    };
    socket.onclose = () => this.#lost();
  }

  #text(data: string): void {
    const message = JSON.parse(data) as { id: number; update?: Update; end?: boolean };
    const open = this.#open.get(message.id);
    if (open === undefined) return;
    if (message.update !== undefined) open.handlers.update(message.update);
    if (message.end) {
      this.#open.delete(message.id);
      open.handlers.end?.();
    }
  }

  #bytes(data: ArrayBuffer): void {
    const id = new DataView(data).getUint32(0);
    this.#open.get(id)?.handlers.bytes?.(new Uint8Array(data, 4));
  }

  #lost(): void {
    this.#socket = undefined;
    this.#queue = [];
    for (const [id, { topic, handlers }] of [...this.#open]) {
      if (resumes(topic)) {
        this.#queue.push(JSON.stringify({ open: id, topic }));
        if (topic.topic === 'engine') handlers.update(away());
      } else {
        this.#open.delete(id);
        handlers.end?.();
      }
    }
    setTimeout(() => this.#socket === undefined && this.#connect(), RETRY_MS);
  }
}

/** The engine may well be fine, but nobody here can tell. */
function away(): Update {
  return {
    type: 'engine', state: 'away', address: location.host, version: '', mode: '', cpus: 0, memory: 0, hasBridge: false,
    lastAnswer: null, startable: false,
    error: { kind: 'unavailable', message: 'cove web has ended', hint: 'start it again and open the address it prints' },
  };
}
