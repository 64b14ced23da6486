// What the tests of the client share: tokens, clients of a real server, connections that break, and a server that says
// what a test tells it to.
import { createHmac } from 'node:crypto';
import { createServer, connect } from 'node:net';
import { once } from 'node:events';
import { WebSocket, WebSocketServer } from 'ws';
import { Relay } from '../../../relay/client/js/relay.js';

export const url = process.env.RELAY_URL;
const secret = process.env.RELAY_SECRET;

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Returns a token for a user, which lives for so many seconds. */
export function mint(sub, lifetime = 3600, claims = {}) {
  const iat = Date.now() / 1000;
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub, iat, exp: iat + lifetime, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

export const admin = (lifetime) => mint('backend', lifetime, { permissions: ['admin'] });

let count = 0;
/** Returns a name that no other test uses. */
export const fresh = (prefix) => `${prefix}-${process.pid}-${(count += 1)}`;

/** A WebSocket that the test can break, as a lost network does. */
export class Breakable extends WebSocket {
  static all = [];

  constructor(address) {
    super(address);
    Breakable.all.push(this);
  }
}

/** Breaks the connection of a client at once. */
export const drop = (relay) => relay._socket?.terminate();

/** Returns a client of the real server that is closed at the end of the test. */
export function client(test, user, options = {}, address = url) {
  const relay = new Relay(address, {
    getToken: () => mint(user),
    webSocket: Breakable,
    minDelay: 20,
    maxDelay: 100,
    timeout: 4000,
    ...options,
  });
  test.after(() => relay.disconnect());
  return relay;
}

/** Publishes as a backend does. */
export async function publish(channel, data, more = {}) {
  const response = await fetch(`${url}/v1/publish`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${admin()}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ channel, data, ...more }),
  });
  if (!response.ok) throw new Error(await response.text());
}

/** Resolves with the first event for which `wanted` is true; fails after 5 s. */
export function next(emitter, event, wanted = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${event} came`)), 5000);
    const off = emitter.on(event, (value) => {
      if (!wanted(value)) return;
      clearTimeout(timer);
      off();
      resolve(value);
    });
  });
}

export const state = (relay, wanted) => next(relay, 'state', (event) => event.state === wanted);
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `done` is true; fails after 5 s. */
export async function until(done) {
  const deadline = Date.now() + 5000;
  while (!(await done())) {
    if (Date.now() > deadline) throw new Error(`it did not come true: ${done}`);
    await sleep(10);
  }
}

/** Runs a server of frames: `answer(frame, send, socket)` is called for each frame of a client. */
export async function fake(test, answer) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const frames = [];
  server.on('connection', (socket) => {
    const send = (frame) => socket.send(JSON.stringify(frame));
    socket.on('message', (text) => {
      const frame = JSON.parse(text);
      frames.push(frame);
      if (frame.type === 'ping') send({ type: 'pong', data: { timestamp: new Date().toISOString() } });
      else if (frame.type === 'auth') {
        send({ type: 'auth:success', data: { userId: 'ada', expiresAt: null, connectionId: 'c-1' } });
      }
      answer?.(frame, send, socket);
    });
  });
  test.after(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  return { server, frames, url: `http://127.0.0.1:${server.address().port}` };
}

/** Runs a TCP proxy in front of the real server that can fall silent without closing. */
export async function proxy(test) {
  const target = new URL(url);
  const sockets = new Set();
  let silent = false;
  const server = createServer((near) => {
    const far = connect(target.port, target.hostname);
    for (const [from, to] of [[near, far], [far, near]]) {
      sockets.add(from);
      from.on('data', (data) => silent || to.write(data));
      from.on('close', () => to.destroy());
      from.on('error', () => {});
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  test.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    silence: (value) => {
      silent = value;
    },
  };
}
