// The client on the WebSocket that Node itself has: it chats, loses its connection, and chats on.
import assert from 'node:assert/strict';
import { Relay } from '../../../relay/client/js/relay.js';
import { mint, state, until, url } from './world.mjs';

const relay = new Relay(url, { getToken: () => mint('ada'), minDelay: 20, maxDelay: 100 });
const room = relay.room((await relay.createRoom({ name: 'Native' })).id);
const got = [];
room.on('message', ({ message }) => got.push(message));
await room.send('1');
relay._socket.close(4000);
await state(relay, 'connected');
assert.equal((await room.send('2')).offset, 2);
await until(() => got.length === 2);
assert.deepEqual(got, ['1', '2']);
relay.disconnect();
console.log('passed');
