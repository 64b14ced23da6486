// The JavaScript client and channels of namespaces, against a real server whose configuration has them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { admin, client, drop, fresh, mint, next, publish, sleep, state, until, url } from './world.mjs';

/** Returns what a subscription gets from now on. */
function taken(subscription) {
  const got = [];
  subscription.on('publication', (publication) => got.push(publication));
  return got;
}

const datas = (got) => got.map(({ data }) => data);

/** Acts as an operator. */
async function operate(path, body) {
  const headers = { Authorization: `Bearer ${admin()}`, 'Content-Type': 'application/json' };
  const response = await fetch(`${url}/v1/admin/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.equal(response.status, 200);
}

test('the last ones first, live ones, and a resume without a loss', async (t) => {
  const channel = fresh('orders:resume');
  const values = [null, true, 1.5, 'text', ['a'], { b: 1 }];
  for (const value of values) await publish(channel, value);
  const relay = client(t, 'ada');
  const orders = relay.subscribe(channel, { last: 4 });
  const got = taken(orders);
  await until(() => got.length === 4);
  assert.deepEqual(datas(got), values.slice(2));
  assert.deepEqual(got.map(({ offset }) => offset), [3, 4, 5, 6]);
  for (let n = 0; n < 30; n += 1) {
    if (n % 10 === 5) drop(relay);
    await publish(channel, n);
  }
  await until(() => got.length === 34);
  assert.deepEqual(datas(got).slice(4), [...Array(30).keys()]);
  assert.equal(orders.position.offset, 36);
});

test('the last ones of a channel that keeps none any more: nothing is told to be lost', async (t) => {
  const channel = fresh('orders:empty');
  for (const n of [1, 2, 3]) await publish(channel, n);
  const headers = { Authorization: `Bearer ${admin()}`, 'Content-Type': 'application/json' };
  const removed = await fetch(`${url}/api/history_remove`, { method: 'POST', headers, body: JSON.stringify({ channel }) });
  assert.deepEqual(await removed.json(), { result: {} });
  const relay = client(t, 'ada');
  const orders = relay.subscribe(channel, { last: 10 });
  const got = taken(orders);
  await orders.ready();
  assert.equal(orders.position.offset, 3);
  drop(relay);
  assert.equal((await next(orders, 'subscribed')).recovered, true);
  await publish(channel, 4);
  await until(() => got.length === 1);
  assert.deepEqual([datas(got), orders.position.offset], [[4], 4]);
});

test('a publication may have the type of a frame of the server', async (t) => {
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  for (const channel of [fresh('orders:types'), fresh('cursors:types')]) {
    const subscription = ada.subscribe(channel);
    const got = taken(subscription);
    subscription.on('join', ({ userId }) => assert.fail(userId));
    bob.connect();
    await Promise.all([subscription.ready(), bob.ready()]);
    const types = ['skipped', 'presence:join', 'chat:typing', 'error'];
    for (const type of types) await bob.publish(channel, { userId: 'eve' }, { type });
    await until(() => got.length === types.length);
    assert.deepEqual(got.map(({ type }) => type), types);
  }
});

test('publications that are not kept for long enough are told to be lost', async (t) => {
  const channel = fresh('short:1');
  const relay = client(t, 'ada');
  const short = relay.subscribe(channel);
  const got = taken(short);
  await short.ready();
  await publish(channel, 'first');
  await until(() => got.length === 1);
  relay.disconnect();
  for (let n = 0; n < 9; n += 1) await publish(channel, n);
  relay.connect();
  const { wasRecovering, recovered, position } = await next(short, 'subscribed');
  assert.deepEqual([wasRecovering, recovered, position.offset], [true, false, 10]);
  await publish(channel, 'after');
  await until(() => got.length === 2);
  assert.deepEqual(datas(got), ['first', 'after']);
});

test('publish: its position, its publisher, once for each id, and without echo', async (t) => {
  const channel = fresh('orders:publish');
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  const [of_ada, of_bob] = [ada.subscribe(channel), bob.subscribe(channel)];
  const [at_ada, at_bob] = [taken(of_ada), taken(of_bob)];
  await Promise.all([of_ada.ready(), of_bob.ready()]);
  const first = await of_ada.publish({ n: 1 }, { type: 'note', id: 'k1' });
  assert.deepEqual(first, { offset: 1, epoch: of_ada.position.epoch });
  assert.deepEqual(await of_ada.publish({ n: 'again' }, { id: 'k1' }), first);
  await until(() => at_ada.length === 1 && at_bob.length === 1);
  const publisher = { user: 'ada', connection: ada.connectionId };
  assert.deepEqual(at_bob, [{ channel, type: 'note', data: { n: 1 }, offset: 1, publisher }]);
  assert.deepEqual(at_ada, at_bob);
  assert.equal((await of_ada.publish(2, { echo: false })).offset, 2);
  await until(() => at_bob.length === 2);
  assert.deepEqual([of_ada.position.offset, at_ada.length], [2, 1]);
  drop(ada);
  await state(ada, 'connected');
  await of_bob.publish(3);
  await until(() => at_ada.length === 2);
  assert.deepEqual(datas(at_ada), [{ n: 1 }, 3]);
  await assert.rejects(ada.publish('short:1', 1), { code: 'forbidden', reason: 'publish_not_allowed' });
});

test('exclude: a backend leaves out the connection that caused the publication', async (t) => {
  const channel = fresh('orders:exclude');
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  const [of_ada, of_bob] = [ada.subscribe(channel), bob.subscribe(channel)];
  const [at_ada, at_bob] = [taken(of_ada), taken(of_bob)];
  await Promise.all([of_ada.ready(), of_bob.ready()]);
  await publish(channel, 1, { exclude: ada.connectionId });
  await publish(channel, 2);
  await until(() => at_ada.length === 1 && at_bob.length === 2);
  assert.deepEqual([datas(at_ada), datas(at_bob)], [[2], [1, 2]]);
  assert.deepEqual([of_ada.position.offset, of_bob.position.offset], [2, 2]);
});

test('history: a page, the ones before, the ones since', async (t) => {
  const channel = fresh('orders:history');
  for (let n = 1; n <= 6; n += 1) await publish(channel, n, { type: 'count' });
  const relay = client(t, 'ada');
  relay.connect();
  const { publications, position } = await relay.history(channel, { limit: 2 });
  assert.deepEqual(publications.map(({ data, offset, type }) => [data, offset, type]), [[6, 6, 'count'], [5, 5, 'count']]);
  assert.equal(publications[0].channel, channel);
  assert.ok(Date.parse(publications[0].timestamp) > Date.now() - 60_000);
  assert.equal(position.offset, 6);
  assert.deepEqual(datas((await relay.history(channel, { before: 5, limit: 2 })).publications), [4, 3]);
  const since = { offset: 4, epoch: position.epoch };
  assert.deepEqual(datas((await relay.history(channel, { since })).publications), [5, 6]);
});

test('presence, join and leave', async (t) => {
  const channel = fresh('orders:presence');
  const [ada, bob] = [client(t, 'ada'), client(t, 'bob')];
  const of_ada = ada.subscribe(channel);
  await of_ada.ready();
  const seen = [];
  for (const event of ['join', 'leave']) of_ada.on(event, ({ userId }) => seen.push([event, userId]));
  const of_bob = bob.subscribe(channel);
  await of_bob.ready();
  await until(() => seen.length === 1);
  const { count, users } = await of_ada.presence();
  assert.equal(count, 2);
  assert.deepEqual(users.map(({ userId, connections }) => [userId, connections]).sort(), [['ada', 1], ['bob', 1]]);
  of_bob.unsubscribe();
  await until(() => seen.length === 2);
  assert.deepEqual(seen, [['join', 'bob'], ['leave', 'bob']]);
  await assert.rejects(ada.presence('short:1'), { code: 'invalid_request', reason: 'no_presence' });
});

test('without history: no position, and nothing of before', async (t) => {
  const relay = client(t, 'ada');
  const cursors = relay.subscribe(fresh('cursors:1'));
  const got = taken(cursors);
  await cursors.ready();
  assert.equal(cursors.position, null);
  assert.equal(await cursors.publish({ x: 1 }), null);
  await cursors.publish({ x: 2 }, { type: 'chat:typing' });
  await until(() => got.length === 2);
  assert.deepEqual(got.map(({ type, data, offset }) => [type, data, offset]), [
    ['cursors:event', { x: 1 }, undefined],
    ['chat:typing', { x: 2 }, undefined],
  ]);
  drop(relay);
  await next(cursors, 'subscribed');
  assert.equal(cursors.position, null);
});

test('an anonymous client reads what anyone may read, for as long as it likes', async (t) => {
  const relay = client(t, '', { getToken: undefined });
  const states = [];
  relay.on('state', (event) => states.push(event.state));
  const channel = fresh('open:1');
  const news = relay.subscribe(channel);
  const got = taken(news);
  await news.ready();
  assert.deepEqual([relay.state, relay.userId], ['connected', null]);
  await publish(channel, 1);
  await until(() => got.length === 1);
  await assert.rejects(relay.subscribe('orders:1').ready(), { code: 'unauthorized', reason: 'not_authenticated' });
  await assert.rejects(relay.publish(channel, 1), { temporary: false });
  await sleep(3000); // longer than it may stay without asking again
  await publish(channel, 2);
  await until(() => got.length === 2);
  assert.deepEqual(states, ['connecting', 'connected']);
});

test('subscription tokens: refused, expired, replaced', async (t) => {
  const channel = fresh('private:1');
  const relay = client(t, 'ada');
  const token = (sub) => () => mint(sub, 2, { channel });
  await assert.rejects(relay.subscribe(channel).ready(), { code: 'forbidden', reason: 'no_grant' });
  await assert.rejects(relay.subscribe(channel, { getToken: token('bob') }).ready(), { reason: 'token_other_user' });
  const malformed = relay.subscribe(channel, { getToken: () => 'nonsense' });
  await assert.rejects(malformed.ready(), { code: 'unauthorized', reason: 'token_invalid' });
  let calls = 0;
  const getToken = () => {
    calls += 1;
    return mint('ada', 2, { channel });
  };
  const orders = relay.subscribe(channel, { getToken });
  const got = taken(orders);
  await orders.ready();
  await until(() => calls === 2);
  await publish(channel, 'still');
  await until(() => got.length === 1);
});

test('grants: channels of the token, one that is closed, and fewer grants than before', async (t) => {
  const channel = fresh('private:grants');
  const claims = [{ channels: [channel, 'closed:1'], grants: { subscribe: ['private:*'] } }, {}];
  const relay = client(t, 'ada', { getToken: () => mint('ada', 4, claims.shift() ?? {}) });
  const [states, errors] = [[], []];
  relay.on('state', (event) => states.push(event.state));
  relay.on('error', ({ reason }) => errors.push(reason));
  const granted = relay.subscribe(channel);
  const got = taken(granted);
  await granted.ready();
  await publish(channel, 1);
  await until(() => got.length === 1);
  const { code, reason } = await next(granted, 'unsubscribed');
  assert.deepEqual([code, reason], ['forbidden', 'no_grant']);
  assert.deepEqual([states, errors], [['connecting', 'connected'], ['closed']]);
});

test('an operator sends a user away for good, or lets it come back', async (t) => {
  const user = fresh('guest');
  const relay = client(t, user);
  relay.connect();
  await relay.ready();
  await operate('disconnect', { user, reconnect: true });
  await state(relay, 'connected');
  await operate('disconnect', { user });
  const { code, reason } = await state(relay, 'disconnected');
  assert.deepEqual([code, reason], [1008, 'disconnected']);
});
