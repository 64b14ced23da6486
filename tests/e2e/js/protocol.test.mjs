// The JavaScript client against a server that says what the test tells it to: close codes, and channels of namespaces.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { client, drop, fake, next, state, until } from './world.mjs';

const answer = (send, type, frame, data) => send({ type, data: { ...data, requestId: frame.requestId } });

/** Runs a server that grants every subscription at this position, and lets the test answer the rest. */
const granting = (test, position, more = () => {}) =>
  fake(test, (frame, send, socket) => {
    if (frame.type !== 'subscribe') more(frame, send, socket);
    else answer(send, 'subscribed', frame, { channel: frame.channel, ...position, recovered: 'since' in frame || undefined });
  });

test('after each close code the client does what the handbook says', async (t) => {
  const again = [
    [1000, '', 100, 200],
    [1001, 'shutting down', 100, 900],
    [1011, 'internal error', 100, 200],
    [1013, 'too slow', 100, 900],
    [1008, 'too many messages', 100, 900],
    [1008, 'token expired', 100, 200],
    [4000, 'of a proxy', 100, 200],
  ];
  const final = [1002, 1003, 1007];
  let close;
  const server = await fake(t, (frame, send, socket) => frame.type === 'auth' && setTimeout(() => socket.close(...close), 5));
  for (const [code, reason, least, most] of again) {
    close = [code, reason];
    const relay = client(t, 'ada', { minDelay: 100, maxDelay: 10_000 }, server.url);
    relay.connect();
    const event = await next(relay, 'state', (one) => one.retryIn !== undefined);
    assert.deepEqual([event.state, event.code, event.reason], ['connecting', code, reason]);
    assert.ok(event.retryIn >= least && event.retryIn <= most, `${code}: ${event.retryIn}`);
    relay.disconnect();
  }
  for (const code of final) {
    close = [code, 'broken'];
    const relay = client(t, 'ada', {}, server.url);
    relay.connect();
    assert.equal((await state(relay, 'disconnected')).code, code);
  }
});

test('delays grow to the maximum', async (t) => {
  const relay = client(t, 'ada', { minDelay: 4, maxDelay: 64 }, 'http://127.0.0.1:9');
  const delays = [];
  relay.on('state', ({ retryIn }) => retryIn !== undefined && delays.push(retryIn));
  relay.connect();
  await until(() => delays.length >= 12);
  for (const [failures, delay] of delays.entries()) {
    assert.ok(delay >= 4 && delay <= Math.min(64, 4 + 4 * 2 ** failures), String(delays));
  }
  assert.ok(Math.max(...delays.slice(6)) > 8, String(delays));
});

test('retryAfter of a refused token is kept to, and the token too', async (t) => {
  const reasons = [];
  const server = await fake(t, (frame, send, socket) => {
    if (frame.type !== 'auth') return;
    send({ type: 'auth:error', data: { code: 'rate_limited', message: 'Slow down.', retryAfter: 7 } });
    socket.close(1008, 'unauthorized');
  });
  const getToken = ({ reason }) => {
    reasons.push(reason);
    return 'a';
  };
  const relay = client(t, 'ada', { getToken }, server.url);
  relay.connect();
  const event = await next(relay, 'state', ({ retryIn }) => retryIn !== undefined);
  assert.equal(event.retryIn, 7000);
  relay._woken();
  await until(() => server.frames.filter(({ type }) => type === 'auth').length === 2);
  assert.deepEqual(reasons, ['connect']);
});

test('a message that is too large is not sent again', async (t) => {
  const server = await fake(t, (frame, send, socket) => frame.type === 'publish' && socket.close(1009, 'message too big'));
  const relay = client(t, 'ada', {}, server.url);
  relay.connect();
  await relay.ready();
  await assert.rejects(relay.publish('docs:1', 'x'), { code: 'too_large' });
  await relay.ready();
  assert.equal(server.frames.filter(({ type }) => type === 'publish').length, 1);
});

test('an answer of REST that stops half-way: in time, and not a success', async (t) => {
  const server = createServer((request, response) => {
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': 100 });
    response.write('{"success": true,');
    if (request.url === '/cut') setTimeout(() => response.destroy(), 20);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  t.after(() => server.closeAllConnections() ?? server.close());
  const relay = client(t, 'ada', { timeout: 200 }, `http://127.0.0.1:${server.address().port}`);
  await assert.rejects(relay.rest('GET', '/stall'), { code: 'timeout' });
  await assert.rejects(relay.rest('GET', '/cut'), { code: 'disconnected' });
});

test('an answer of REST that is not of Relay is not a success', async (t) => {
  const server = createServer((request, response) => response.end('<h1>Log in to this network</h1>'));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  t.after(() => server.closeAllConnections() ?? server.close());
  const relay = client(t, 'ada', {}, `http://127.0.0.1:${server.address().port}`);
  const message = 'The server answered 200, but not like Relay.';
  await assert.rejects(relay.rooms(), { code: 'internal_error', message });
});

test('a silent server is pinged', async (t) => {
  const server = await fake(t);
  const relay = client(t, 'ada', { pingInterval: 50, timeout: 500 }, server.url);
  relay.connect();
  await until(() => server.frames.filter(({ type }) => type === 'ping').length >= 4);
  assert.equal(relay.state, 'connected');
});

test('a subscription that cannot be had now is asked for again', async (t) => {
  let asked = 0;
  const server = await fake(t, (frame, send) => {
    if (frame.type !== 'subscribe') return;
    asked += 1;
    const codes = { 1: { code: 'internal_error' }, 2: { code: 'forbidden', reason: 'revoked' } };
    if (asked < 3) answer(send, 'error', frame, { ...codes[asked], message: 'Later.', request: 'subscribe' });
    else answer(send, 'subscribed', frame, { channel: frame.channel, offset: 0, epoch: 'e' });
  });
  await client(t, 'ada', {}, server.url).subscribe('orders:1').ready();
  assert.equal(asked, 3);
});

test('each request is sent once: those that wait, then those of a listener', async (t) => {
  const server = await fake(t, (frame, send) => {
    if (frame.type === 'publish') answer(send, 'published', frame, { channel: frame.channel, offset: 1, epoch: 'e' });
  });
  const relay = client(t, 'ada', {}, server.url);
  const sent = [];
  relay.on('state', ({ state: now }) => now === 'connected' && sent.push(relay.publish('orders:1', 'listener')));
  relay.connect();
  sent.push(relay.publish('orders:1', 'waiting'));
  await relay.ready();
  await Promise.all(sent);
  await relay.publish('orders:1', 'last');
  const frames = server.frames.filter(({ type }) => type === 'publish');
  assert.deepEqual(frames.map(({ data }) => data), ['waiting', 'listener', 'last']);
});

test('broadcast comes first in the burst', async (t) => {
  const server = await granting(t, { offset: 0, epoch: 'e' });
  const relay = client(t, 'ada', {}, server.url);
  for (const channel of ['orders:1', 'orders:2', 'broadcast']) relay.subscribe(channel);
  await relay.ready();
  drop(relay);
  await state(relay, 'connected');
  await until(() => server.frames.filter(({ type }) => type === 'subscribe').length === 6);
  const types = server.frames.slice(-5).map(({ type, channel }) => channel ?? type);
  assert.deepEqual(types, ['ping', 'auth', 'broadcast', 'orders:1', 'orders:2']);
});

test('namespaces: any value, the last ones first, and resume', async (t) => {
  const server = await fake(t, (frame, send) => {
    if (frame.type !== 'subscribe') return;
    const { offset: before } = frame.since ?? { offset: 5 };
    answer(send, 'subscribed', frame, { channel: 'orders:42', offset: before, epoch: 'e', recovered: frame.since && true });
    const from = before + 1;
    for (let offset = from; offset < from + 3; offset += 1) {
      send({ type: 'orders:event', channel: 'orders:42', offset, data: [null, offset, 'text'][offset % 3] });
    }
  });
  const relay = client(t, 'ada', {}, server.url);
  const got = [];
  const orders = relay.subscribe('orders:42', { last: 2, onPublication: ({ offset, data }) => got.push([offset, data]) });
  await until(() => got.length === 3);
  assert.deepEqual(got, [[6, null], [7, 7], [8, 'text']]);
  assert.deepEqual(orders.position, { offset: 8, epoch: 'e' });
  drop(relay);
  await until(() => got.length === 6);
  assert.deepEqual(got.slice(3).map(([offset]) => offset), [9, 10, 11]);
  const [, again] = server.frames.filter(({ type }) => type === 'subscribe');
  assert.deepEqual([again.channel, again.since], ['orders:42', { offset: 8, epoch: 'e' }]);
});

test('namespaces: publish, with its publisher, without echo, and a position that moves on', async (t) => {
  let offset = 0;
  const server = await granting(t, { offset: 0, epoch: 'e' }, (frame, send) => {
    if (frame.type !== 'publish') return;
    offset += 1;
    if (frame.echo !== false) {
      const publisher = { user: 'ada', connection: 'c-1' };
      send({ type: frame.event ?? 'orders:event', channel: frame.channel, offset, publisher, data: frame.data });
    }
    else send({ type: 'skipped', channel: frame.channel, offset });
    answer(send, 'published', frame, { channel: frame.channel, offset, epoch: 'e' });
  });
  const relay = client(t, 'ada', {}, server.url);
  const orders = relay.subscribe('orders:42');
  const got = [];
  orders.on('publication', (publication) => got.push(publication));
  await orders.ready();
  assert.equal(relay.connectionId, 'c-1');
  assert.deepEqual(await orders.publish({ state: 'paid' }, { type: 'changed', id: 'k-1' }), { offset: 1, epoch: 'e' });
  const publisher = { user: 'ada', connection: 'c-1' };
  assert.deepEqual(got, [{ channel: 'orders:42', type: 'changed', data: { state: 'paid' }, offset: 1, publisher }]);
  await orders.publish(5, { echo: false });
  assert.deepEqual([got.length, orders.position.offset], [1, 2]);
  const [first, second] = server.frames.filter(({ type }) => type === 'publish');
  assert.deepEqual([first.event, first.clientMessageId, second.echo], ['changed', 'k-1', false]);
});

test('namespaces: skipped, history, presence, join and leave', async (t) => {
  const kept = [{ offset: 2, type: 'orders:event', data: 1, timestamp: '2026-01-01T00:00:00.000Z' }];
  const server = await granting(t, { offset: 2, epoch: 'e' }, (frame, send) => {
    if (frame.type === 'history') answer(send, 'history', frame, { channel: frame.channel, publications: kept, offset: 2, epoch: 'e' });
    if (frame.type === 'presence') {
      answer(send, 'presence', frame, { channel: frame.channel, count: 7, users: [{ userId: 'ada', connections: 2 }] });
      send({ type: 'presence:join', channel: 'orders:42', data: { userId: 'bob' } });
      send({ type: 'presence:leave', channel: 'orders:42', data: { channel: 'orders:42', userId: 'bob' } });
      send({ type: 'skipped', channel: 'orders:42', offset: 3 });
    }
  });
  const orders = client(t, 'ada', {}, server.url).subscribe('orders:42');
  const seen = [];
  for (const event of ['join', 'leave']) orders.on(event, ({ userId }) => seen.push([event, userId]));
  await orders.ready();
  const { publications, position } = await orders.history({ before: 3, limit: 10 });
  assert.deepEqual([publications[0].channel, publications[0].data, position], ['orders:42', 1, { offset: 2, epoch: 'e' }]);
  assert.deepEqual(await orders.presence(), { count: 7, users: [{ userId: 'ada', connections: 2 }] });
  await until(() => orders.position.offset === 3);
  assert.deepEqual(seen, [['join', 'bob'], ['leave', 'bob']]);
});

test('namespaces: without history, and with a type like that of an answer', async (t) => {
  const types = ['error', 'subscribed', 'auth:success', 'chat:typing', 'user:online', 'constructor', 'skip'];
  const server = await granting(t, {}, () => {});
  const relay = client(t, 'ada', {}, server.url);
  const cursors = relay.subscribe('cursors:1');
  await cursors.ready();
  assert.equal(cursors.position, null);
  const got = [];
  cursors.on('publication', ({ type, data, offset }) => got.push([type, data, offset]));
  for (const socket of server.server.clients) {
    for (const type of types) socket.send(JSON.stringify({ type, channel: 'cursors:1', data: null }));
    const data = { requestId: cursors._request };
    socket.send(JSON.stringify({ type: 'unsubscribed', channel: 'cursors:1', data }));
  }
  await until(() => got.length === types.length + 1);
  assert.deepEqual(got.slice(0, -1), types.map((type) => [type, null, undefined]));
  assert.equal(cursors.state, 'subscribed');
});

test('namespaces: full names of built-in channels, as frames carry them', async (t) => {
  const server = await granting(t, { offset: 0, epoch: 'e' });
  const relay = client(t, 'ada', {}, server.url);
  const got = [];
  const onPublication = ({ channel, data }) => got.push([channel, data.n]);
  await Promise.all([relay.room('gold', { onPublication }).ready(), relay.notifications({ onPublication }).ready()]);
  for (const socket of server.server.clients) {
    socket.send(JSON.stringify({ type: 'mine', channel: 'chatroom:gold', offset: 1, data: { n: 1 } }));
    socket.send(JSON.stringify({ type: 'mine', channel: 'user:ada', offset: 1, data: { n: 2 } }));
  }
  await until(() => got.length === 2);
  assert.deepEqual(got, [['chatroom:gold', 1], ['notifications', 2]]);
});

test("a backend's yes that ended: asked for again, without a token", async (t) => {
  let send;
  const server = await granting(t, { offset: 0, epoch: 'e' }, (frame, to) => {
    send = to;
  });
  const orders = client(t, 'ada', {}, server.url).subscribe('orders:42');
  await orders.ready();
  send({ type: 'unsubscribed', data: { channel: 'orders:42', reason: 'backend_expired' } });
  await next(orders, 'subscribed');
  assert.equal(server.frames.filter(({ type }) => type === 'subscribe').length, 2);
});

test('publications that the server lost: subscribed to again, and told', async (t) => {
  let send;
  const server = await fake(t, (frame, to) => {
    send = to;
    if (frame.type !== 'subscribe') return;
    const recovered = frame.since ? false : undefined;
    answer(send, 'subscribed', frame, { channel: 'orders:42', offset: 5, epoch: frame.since ? 'f' : 'e', recovered });
  });
  const orders = client(t, 'ada', {}, server.url).subscribe('orders:42');
  await orders.ready();
  send({ type: 'unsubscribed', data: { channel: 'orders:42', reason: 'publications were lost' } });
  const { wasRecovering, recovered, position } = await next(orders, 'subscribed');
  assert.deepEqual([wasRecovering, recovered, position], [true, false, { offset: 5, epoch: 'f' }]);
});

test('subscription tokens: fetched for each subscribe, refreshed, given up', async (t) => {
  let send;
  const server = await granting(t, { offset: 0, epoch: 'e' }, (frame, to) => {
    send = to;
  });
  const { Unauthorized } = await import('../../../relay/client/js/relay.js');
  const channels = [];
  const getToken = async ({ channel }) => {
    channels.push(channel);
    if (channels.length === 1) throw new Error('away');
    if (channels.length === 4) throw new Unauthorized('no more');
    return `t${channels.length}`;
  };
  const orders = client(t, 'ada', {}, server.url).subscribe('orders:42', { getToken });
  await orders.ready();
  send({ type: 'unsubscribed', data: { channel: 'orders:42', reason: 'token_expired' } });
  await next(orders, 'subscribed');
  send({ type: 'unsubscribed', data: { channel: 'orders:42', reason: 'token_expired' } });
  const { code, reason } = await next(orders, 'unsubscribed');
  assert.deepEqual([code, reason], ['unauthorized', 'no more']);
  const tokens = server.frames.filter(({ type }) => type === 'subscribe').map(({ token }) => token);
  assert.deepEqual(tokens, ['t2', 't3']);
});
