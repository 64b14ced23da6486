// The JavaScript client against a real server: what its handbook page says of each method, state and error.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as exported from '../../../relay/client/js/relay.js';
import { Breakable, admin, client, drop, fresh, mint, next, proxy, publish, sleep, state, until, url } from './world.mjs';

const { Notifications, Relay, RelayError, Room, Subscription, Unauthorized } = exported;

/** Makes a room, and returns its id. */
async function makeRoom(relay, fields = {}) {
  return (await relay.createRoom({ name: 'A room', ...fields })).id;
}

/** Returns the texts of the messages that a room gets from now on. */
function texts(room) {
  const got = [];
  room.on('message', ({ message }) => got.push(message));
  return got;
}

test('states, events and disconnect', async (t) => {
  const relay = client(t, 'ada');
  const states = [];
  relay.on('state', (event) => states.push(event.state));
  assert.equal(relay.state, 'disconnected');
  await assert.rejects(relay.ready(), { code: 'disconnected' });
  await assert.rejects(relay.publish('x:1', 1), { code: 'disconnected', temporary: true });
  relay.connect();
  relay.connect();
  await relay.ready();
  assert.deepEqual([relay.state, relay.userId], ['connected', 'ada']);
  relay.disconnect();
  await assert.rejects(relay.ready(), { code: 'disconnected' });
  assert.deepEqual(states, ['connecting', 'connected', 'disconnected']);
  relay.connect();
  await relay.ready();
});

test('addresses', () => {
  const at = (address) => new Relay(address, { webSocket: Breakable });
  for (const address of ['http://a:1', 'ws://a:1/', 'ws://a:1/v1/live', 'http://a:1/v1/live/']) {
    assert.deepEqual([at(address)._url, at(address)._http], ['ws://a:1/v1/live', 'http://a:1']);
  }
  assert.equal(at('https://a/relay/')._url, 'wss://a/relay/v1/live');
  assert.throws(() => at('a:1'), TypeError);
  assert.throws(() => at('https://a/?x=1'), TypeError);
});

test('a room: messages with acknowledgement, typing, presence, members, history', async (t) => {
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  const id = await makeRoom(ada);
  const [of_ada, of_bob] = [ada.room(id), bob.room(id)];
  assert.equal(ada.subscribe(`chatroom:${id}`), of_ada);
  assert.ok(of_ada instanceof Room);
  await Promise.all([of_ada.ready(), of_bob.ready()]);
  const [at_ada, at_bob] = [texts(of_ada), texts(of_bob)];
  const typing = [];
  of_ada.on('typing', ({ userId, isTyping }) => typing.push([userId, isTyping]));
  of_bob.typing();
  of_bob.typing();
  const sent = await of_bob.send('Hello');
  assert.deepEqual([sent.message, sent.userId, sent.offset, sent.chatroomId], ['Hello', 'bob', 1, id]);
  assert.equal('requestId' in sent, false);
  of_bob.typing(false);
  await until(() => at_ada.length && at_bob.length && typing.length === 2);
  assert.deepEqual([at_ada, at_bob, typing], [['Hello'], ['Hello'], [['bob', true], ['bob', false]]]);
  const { count, users } = await of_ada.presence();
  assert.deepEqual([count, users.map((user) => user.userId).sort()], [2, ['ada', 'bob']]);
  const { items, pagination } = await of_ada.messages({ limit: 1 });
  assert.deepEqual([items[0].message, pagination.total], ['Hello', 1]);
  await of_bob.join();
  assert.deepEqual((await of_ada.members()).items.map((member) => member.userId), ['ada', 'bob']);
  await of_bob.leave();
  assert.equal((await of_ada.update({ name: 'Other' })).name, 'Other');
  assert.equal((await of_ada.info()).name, 'Other');
  assert.ok((await ada.rooms({ limit: 100, type: 'public' })).items.some((room) => room.id === id));
  const [deleted, ended] = [next(of_bob, 'deleted'), next(of_bob, 'unsubscribed')];
  await of_ada.delete();
  await deleted;
  assert.equal((await ended).reason, 'the room was deleted');
});

test('users that come and go', async (t) => {
  const [ada, bob] = [client(t, fresh('ada')), client(t, fresh('bob'))];
  const id = await makeRoom(ada);
  await ada.room(id).ready();
  const online = next(ada, 'online');
  await bob.room(id).ready();
  assert.match((await online).userId, /^bob/);
});

test('the same id counts once', async (t) => {
  const ada = client(t, fresh('ada'));
  const room = ada.room(await makeRoom(ada));
  await room.ready();
  const got = texts(room);
  const id = fresh('id');
  const [first, second] = await Promise.all([room.send('once', { id }), room.send('once', { id })]);
  assert.equal(first.messageId, second.messageId);
  assert.equal((await room.send('once', { id })).messageId, first.messageId);
  await room.send('twice');
  assert.deepEqual(got, ['once', 'twice']);
});

test('a send that is cut off is sent again, once', async (t) => {
  const ada = client(t, fresh('ada'));
  const room = ada.room(await makeRoom(ada));
  await room.ready();
  const got = texts(room);
  const sent = [];
  for (let number = 0; number < 20; number += 1) {
    sent.push(room.send(String(number)));
    if (number % 5 === 4) {
      drop(ada);
      await state(ada, 'connected');
    }
  }
  const offsets = (await Promise.all(sent)).map(({ offset }) => offset);
  const numbers = Array.from({ length: 20 }, (_, number) => number);
  assert.deepEqual(offsets, numbers.map((number) => number + 1));
  await until(() => got.length === 20);
  assert.deepEqual(got, numbers.map(String));
});

test('resume after a lost connection', async (t) => {
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  const room = ada.room(await makeRoom(ada));
  await room.ready();
  const speaker = bob.room(room.id);
  await speaker.ready();
  const got = texts(room);
  await speaker.send('1');
  await until(() => got.length === 1);
  const subscribed = next(room, 'subscribed');
  drop(ada);
  await state(ada, 'connecting');
  assert.equal(room.state, 'subscribing');
  await speaker.send('2');
  await speaker.send('3');
  assert.deepEqual(
    (({ wasRecovering, recovered }) => [wasRecovering, recovered])(await subscribed),
    [true, true],
  );
  await until(() => got.length === 3);
  assert.deepEqual(got, ['1', '2', '3']);
  assert.equal(room.position.offset, 3);
  // From a position that the application kept.
  const again = client(t, 'ada').room(room.id, { since: { ...room.position, offset: 1 } });
  const later = texts(again);
  await until(() => later.length === 2);
  assert.deepEqual(later, ['2', '3']);
  const lost = client(t, 'ada').room(room.id, { since: { offset: 1, epoch: 'gone' } });
  const event = await next(lost, 'subscribed');
  assert.deepEqual([event.wasRecovering, event.recovered, event.position.offset], [true, false, 3]);
});

test('refusals', async (t) => {
  const [ada, bob] = [client(t, fresh('ada')), client(t, fresh('bob'))];
  await assert.rejects(ada.room('none-such').ready(), { name: 'RelayError', code: 'not_found' });
  assert.equal(ada.subscriptions().length, 0);
  await assert.rejects(ada.subscribe('user:another').ready(), { code: 'forbidden' });
  const room = ada.room(await makeRoom(ada, { type: 'private' }));
  await room.ready();
  await assert.rejects(room.send(' '), { code: 'invalid_request', temporary: false });
  await assert.rejects(ada.createRoom({}), (error) => {
    assert.deepEqual([error.code, error.errors[0].field], ['invalid_request', 'name']);
    return true;
  });
  await assert.rejects(ada.createRoom({ name: 'x', id: 'chosen' }), { code: 'forbidden' });
  await assert.rejects(ada.rest('GET', '/v1/nothing'), { code: 'not_found' });
  await assert.rejects(ada.rest('GET', '/v1/chatrooms/nothing'), { code: 'not_found', reason: 'not_found' });
  // A right that is lost ends the subscription.
  await bob.ready().catch(() => bob.connect());
  await bob.ready();
  await room.addMember(bob.userId);
  const inside = bob.room(room.id);
  await inside.ready();
  const ended = next(inside, 'unsubscribed');
  const reading = async () => {
    for await (const publication of inside) assert.fail(publication.type);
  };
  const refused = assert.rejects(reading(), { code: 'forbidden' });
  await room.removeMember(bob.userId);
  assert.deepEqual(await ended, { channel: inside.channel, code: 'forbidden', reason: 'no longer a member' });
  assert.equal(inside.state, 'unsubscribed');
  await refused;
  await assert.rejects(reading(), { code: 'forbidden', reason: 'no longer a member' });
});

test('a member with an id that a URL cannot name is not taken for the room', async (t) => {
  const ada = client(t, fresh('ada'));
  const room = ada.room(await makeRoom(ada));
  for (const id of ['..', '.']) {
    await room.addMember(id);
    await assert.rejects(room.removeMember(id), { code: 'invalid_request' });
  }
  assert.equal((await room.info()).memberCount, 3);
  await room.addMember('a/../b');
  assert.equal((await room.removeMember('a/../b')).memberCount, 3);
});

test('an operator ends the subscription to any kind of channel', async (t) => {
  const ada = client(t, fresh('ada'));
  const room = ada.room(await makeRoom(ada));
  const others = [`market:${fresh('S')}`, 'trades', `community:${fresh('c')}`, 'notifications', 'broadcast'];
  const all = [room, ...others.map((channel) => ada.subscribe(channel))];
  for (const one of all) {
    await one.ready();
    const ended = next(one, 'unsubscribed');
    const channel = one.channel === 'notifications' ? `user:${ada.userId}` : one.channel;
    const response = await fetch(`${url}/v1/admin/unsubscribe`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${admin()}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ user: ada.userId, channel }),
    });
    assert.equal(response.status, 200);
    assert.equal((await ended).reason, 'unsubscribed by the server');
  }
  assert.equal(ada.subscriptions().length, 0);
});

test('broadcasts: of any type, resumed', async (t) => {
  const ada = client(t, fresh('ada'));
  const got = [];
  const news = ada.subscribe('broadcast', { onPublication: ({ type, data }) => got.push([type, data.n]) });
  await news.ready();
  await publish('broadcast', { n: 1 }, { type: 'error' });
  await until(() => got.length === 1);
  for (let n = 2; n < 30; n += 3) {
    drop(ada);
    await publish('broadcast', { n }, { type: 'news' });
    await state(ada, 'connected');
    await publish('broadcast', { n: n + 1 }, { type: 'news' });
    await publish('broadcast', { n: n + 2 }, { type: 'news' });
  }
  await until(() => got.length === 31);
  assert.deepEqual(got.map(([, n]) => n), Array.from({ length: 31 }, (_, n) => n + 1));
  assert.equal(got[0][0], 'error');
  news.unsubscribe();
  assert.equal(ada.subscriptions().length, 0);
});

test('prices: the last one first, and not again after a reconnect', async (t) => {
  const ada = client(t, 'ada');
  const symbol = fresh('eur/usd').toUpperCase();
  await publish(`market:${symbol}`, { price: 1 });
  const got = [];
  const market = ada.market(symbol.toLowerCase(), { onPublication: ({ data }) => got.push(data.price) });
  await until(() => got.length === 1);
  assert.equal(market.channel, `market:${symbol}`);
  drop(ada);
  await state(ada, 'connected');
  await market.ready();
  await publish(`market:${symbol}`, { price: 2 });
  await until(() => got.length === 2);
  drop(ada);
  await state(ada, 'connecting');
  await publish(`market:${symbol}`, { price: 3 });
  await until(() => got.length === 3);
  assert.deepEqual(got, [1, 2, 3]);
  market.unsubscribe();
  await publish(`market:${symbol}`, { price: 4 });
  await sleep(50);
  assert.equal(got.length, 3);
});

test('trades, communities and notifications', async (t) => {
  const ada = client(t, fresh('ada'));
  const got = [];
  const onPublication = ({ channel, data }) => got.push([channel, data.n ?? data.message]);
  const community = fresh('c');
  const mine = ada.notifications({ onPublication });
  assert.ok(mine instanceof Notifications);
  await Promise.all([
    mine.ready(),
    ada.subscribe('trades', { onPublication }).ready(),
    ada.subscribe(`community:${community}`, { onPublication }).ready(),
  ]);
  await publish('trades', { n: 1 });
  await publish(`community:${community}`, { n: 2 });
  await publish(`user:${ada.userId}`, { message: 'three', title: 'x' });
  await until(() => got.length === 3);
  assert.deepEqual(got, [['trades', 1], [`community:${community}`, 2], ['notifications', 'three']]);
  const { items } = await mine.list();
  assert.deepEqual([items.length, items[0].read], [1, false]);
  assert.equal((await mine.read(items[0].id)).read, true);
  assert.equal(await mine.readAll(), 0);
});

test('an iterator, and a signal that ends it', async (t) => {
  const ada = client(t, fresh('ada'));
  const abort = new AbortController();
  const room = ada.room(await makeRoom(ada), { signal: abort.signal });
  await room.ready();
  const got = [];
  const reading = (async () => {
    for await (const { data } of room) got.push(data.message);
  })();
  await room.send('1');
  await room.send('2');
  abort.abort();
  await reading;
  assert.deepEqual(got, ['1', '2']);
  assert.equal(room.state, 'unsubscribed');
  const later = ada.room(room.id);
  assert.notEqual(later, room);
  await later.ready();
  const slow = later[Symbol.asyncIterator]();
  for (let number = 0; number <= 1000; number += 1) later._publish({ type: 'x', data: { number } });
  for (let number = 0; number < 1000; number += 1) assert.equal((await slow.next()).value.data.number, number);
  await assert.rejects(slow.next(), { code: 'too_slow' });
  const ending = (async () => {
    for await (const { data } of later) got.push(data.message);
  })();
  await later.send('3');
  ada.disconnect();
  await ending;
  assert.deepEqual(got, ['1', '2', '3']);
  later.unsubscribe();
  for await (const publication of later) assert.fail(publication.type);
});

test('requests wait for the connection, in order and bounded', async (t) => {
  const ada = client(t, fresh('ada'));
  const room = ada.room(await makeRoom(ada));
  const sent = await Promise.all(['1', '2', '3'].map((text) => room.send(text)));
  assert.deepEqual(sent.map(({ offset }) => offset), [1, 2, 3]);
  const away = client(t, 'ada', { timeout: 50, minDelay: 1000, maxDelay: 1000 }, 'http://127.0.0.1:9');
  away.connect();
  const waiting = Array.from({ length: 256 }, () => away.publish('x:1', 1));
  await assert.rejects(away.publish('x:1', 1), { code: 'rate_limited' });
  for (const result of await Promise.allSettled(waiting)) assert.equal(result.reason.code, 'timeout');
  const last = away.publish('x:1', 1);
  away.disconnect();
  await assert.rejects(last, { code: 'disconnected' });
});

test('tokens: kept over reconnects, refreshed before they expire', async (t) => {
  const reasons = [];
  const getToken = ({ reason }) => {
    reasons.push(reason);
    return mint('ada', 4);
  };
  const ada = client(t, 'ada', { getToken });
  ada.connect();
  await ada.ready();
  drop(ada);
  await state(ada, 'connected');
  assert.deepEqual(reasons, ['connect']);
  const states = [];
  ada.on('state', (event) => states.push(event));
  await sleep(7000);
  assert.deepEqual(states, []);
  assert.ok(reasons.length >= 3 && reasons.slice(1).every((reason) => reason === 'refresh'), String(reasons));
});

test('tokens: the clock of this machine may be wrong', async (t) => {
  const { now } = Date;
  t.after(() => {
    Date.now = now;
  });
  for (const wrong of [3_600_000, -3_600_000]) {
    const reasons = [];
    const ada = client(t, 'ada', {
      getToken: ({ reason }) => {
        reasons.push(reason);
        Date.now = now;
        const token = mint('ada', 4);
        Date.now = () => now() + wrong;
        return token;
      },
    });
    ada.connect();
    await ada.ready();
    assert.deepEqual(reasons, ['connect']);
    const lost = [];
    ada.on('state', (event) => lost.push(event));
    await sleep(4500);
    assert.ok(reasons.length >= 2 && reasons.length <= 5, String(reasons));
    assert.deepEqual(lost, []);
    ada.disconnect();
  }
});

test('tokens: one that is refused is asked for again; Unauthorized stops', async (t) => {
  const reasons = [];
  const getToken = ({ reason }) => {
    reasons.push(reason);
    if (reasons.length === 1) return 'nonsense';
    if (reasons.length === 2) throw new Error('the backend is away');
    if (reasons.length === 3) return mint('ada', 1.5);
    if (reasons.length === 4) throw new Error('the backend is away again');
    throw new Unauthorized('logged out');
  };
  const ada = client(t, 'ada', { getToken });
  const errors = [];
  ada.on('error', (error) => errors.push(error.code ?? error.message));
  ada.connect();
  await state(ada, 'connected');
  const stopped = await state(ada, 'disconnected');
  assert.deepEqual([stopped.code, stopped.reason], [1008, 'logged out']);
  assert.deepEqual(reasons.slice(0, 3), ['connect', 'refused', 'refused']);
  assert.deepEqual(errors.slice(0, 2), ['unauthorized', 'the backend is away']);
  await assert.rejects(ada.ready(), { code: 'disconnected', message: 'logged out' });
  await assert.rejects(ada.market('BTC')[Symbol.asyncIterator]().next(), { code: 'disconnected', message: 'logged out' });
});

test('tokens: without a function, or of another user', async (t) => {
  const nobody = client(t, 'x', { getToken: undefined });
  nobody.connect();
  assert.equal((await state(nobody, 'disconnected')).code, 1008);
  let user = 'ada';
  const relay = client(t, 'x', { getToken: () => mint(user, 2) });
  relay.notifications();
  await relay.ready();
  user = 'bob';
  const { reason } = await state(relay, 'disconnected');
  assert.equal(reason, 'The token is of another user than before.');
  relay.connect();
  await relay.notifications().ready();
  assert.equal(relay.userId, 'bob');
});

test('REST asks for another token after 401', async (t) => {
  const reasons = [];
  const getToken = ({ reason }) => {
    reasons.push(reason);
    return reasons.length === 1 ? 'nonsense' : admin();
  };
  const relay = client(t, 'x', { getToken });
  assert.ok((await relay.rooms()).items);
  assert.deepEqual(reasons, ['connect', 'refused']);
  const away = client(t, 'x', {}, 'http://127.0.0.1:9');
  await assert.rejects(away.rooms(), { code: 'disconnected' });
});

test('a connection that falls silent is replaced', async (t) => {
  const between = await proxy(t);
  const ada = client(t, 'ada', { pingInterval: 200, timeout: 400 }, between.url);
  const room = ada.room(await makeRoom(client(t, 'ada')));
  await room.ready();
  await sleep(700);
  assert.equal(ada.state, 'connected');
  between.silence(true);
  const { reason } = await state(ada, 'connecting');
  assert.equal(reason, 'the server does not answer');
  between.silence(false);
  await room.ready();
});

test('a fault of a listener is reported, and the others are called', async (t) => {
  const relay = client(t, 'ada');
  const later = [];
  const { setTimeout: real } = globalThis;
  globalThis.setTimeout = (callback) => later.push(callback);
  relay.on('error', () => {
    throw new Error('a fault');
  });
  const got = [];
  relay.on('error', (error) => got.push(error));
  relay._emit('error', 1);
  globalThis.setTimeout = real;
  assert.deepEqual(got, [1]);
  assert.throws(() => later[0](), { message: 'a fault' });
});

test('the types name what there is', () => {
  const types = readFileSync(new URL('../../../relay/client/js/relay.d.ts', import.meta.url), 'utf8');
  const classes = [...types.matchAll(/^export class (\w+)[^{]*\{(.*?)\}$/gms)];
  const declared = (name) => classes.find(([, found]) => found === name)[2];
  for (const kind of [Relay, Subscription, Room, Notifications]) {
    const methods = [...declared(kind.name).matchAll(/^ {2}(\w+)(?:<[^>]*>)?\(/gm)].map(([, name]) => name);
    const own = Object.getOwnPropertyNames(kind.prototype).filter((name) => !name.startsWith('_'));
    assert.deepEqual([...new Set(['constructor', ...methods])].sort(), own.sort(), kind.name);
  }
  const names = classes.map(([, name]) => name);
  assert.deepEqual(names.sort(), Object.keys(exported).sort());
  assert.ok(new RelayError('timeout', 'x').temporary);
  assert.ok(url);
});
