// Clients whose connections break every few seconds while they chat: node endurance.mjs
//
// Each sends messages to one room and reads it, and reads broadcasts. What a client gets is compared with what the
// others got at the same offset, so that the memory of an audit stays small. Prints a JSON array a line, as its
// arguments and stdin (`stop`, `end`) tell it to.
import { createInterface } from 'node:readline';
import { Relay } from '../../../relay/client/js/relay.js';
import { Breakable, admin, mint, sleep, url } from './world.mjs';

const { clients, rate, drop, lifetime } = JSON.parse(process.argv[2]);
const say = (event, value) => console.log(JSON.stringify([event, value]));
const faults = [];
const fault = (text) => {
  if (faults.length < 20) faults.push(text);
};
const counts = { sent: 0, acknowledged: 0, delivered: 0, connects: 0, resumes: 0, connect: 0, refresh: 0, refused: 0 };

/** Breaks by itself, after `drop` ms on average. */
class Flaky extends Breakable {
  constructor(address) {
    super(address);
    Breakable.all.length = 0;
    setTimeout(() => this.terminate(), drop * (0.5 + Math.random())).unref();
  }
}

/** Audits one channel: every client must get every offset once, in order, and all the same. */
class Audit {
  constructor(name) {
    this.name = name;
    this.texts = [];
    this.positions = [];
  }

  follow(subscription, text) {
    const index = this.positions.push(null) - 1;
    subscription.on('subscribed', ({ position, wasRecovering, recovered }) => {
      if (wasRecovering) counts.resumes += 1;
      if (wasRecovering && !recovered) fault(`${this.name}: client ${index} could not resume from ${this.positions[index]}`);
      if (this.positions[index] === null) this.positions[index] = position.offset;
    });
    subscription.on('publication', (publication) => {
      counts.delivered += 1;
      const { offset } = publication;
      const expected = this.positions[index] + 1;
      if (offset !== expected) fault(`${this.name}: client ${index} got ${offset}, not ${expected}`);
      this.positions[index] = offset;
      this.check(offset, text(publication.data));
    });
  }

  check(offset, text) {
    this.texts[offset] ??= text;
    if (this.texts[offset] !== text) fault(`${this.name}: ${offset} is ${text} and ${this.texts[offset]}`);
  }
}

const owner = new Relay(url, { webSocket: Breakable, getToken: () => admin() });
const { id } = await owner.createRoom({ name: 'Endurance' });
const chat = new Audit('chat');
const news = new Audit('broadcast');
const people = Array.from({ length: clients }, (_, number) => {
  const user = `user-${number}`;
  const getToken = ({ reason }) => {
    counts[reason] += 1;
    // The backend of some users is away when a token should be refreshed, so that it expires.
    if (number % 10 === 0 && reason === 'refresh') throw new Error('away');
    return mint(user, lifetime * (0.5 + Math.random()));
  };
  const options = { getToken, webSocket: Flaky, minDelay: 50, maxDelay: 500, timeout: 60_000 };
  const relay = new Relay(url, options);
  relay.on('state', ({ state, reason }) => {
    if (state === 'connected') counts.connects += 1;
    if (state === 'disconnected' && !ending) fault(`client ${number} gave up: ${reason}`);
  });
  const room = relay.room(id);
  chat.follow(room, ({ message }) => message);
  news.follow(relay.subscribe('broadcast'), ({ n }) => n);
  return { relay, room };
});

let ending = false;
let stopped = false;

async function talk({ room }, number) {
  await room.ready(60_000);
  await sleep((Math.random() * 1000 * clients) / rate);
  for (let turn = 0; !stopped; turn += 1) {
    const text = `${number}/${turn}`;
    counts.sent += 1;
    const [answer] = await Promise.all([
      room.send(text).catch((error) => fault(`${text} was not sent: ${error.code} ${error.message}`)),
      sleep((1000 * clients) / rate),
    ]);
    if (answer) {
      counts.acknowledged += 1;
      chat.check(answer.offset, answer.message);
      if (answer.message !== text) fault(`${text} was answered with ${answer.message}`);
    }
  }
}

/** Returns the bytes of the heap after a collection, if `--expose-gc` is given. */
function heap() {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

const talking = people.map(talk);
await Promise.all(people.map(({ room }) => room.ready(60_000)));
say('ready', null);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'heap') say('heap', heap());
  if (line.startsWith('stop')) {
    stopped = true;
    const broadcasts = Number(line.split(' ')[1]);
    await Promise.all(talking);
    const last = chat.texts.length - 1;
    const deadline = Date.now() + 30_000;
    const behind = () => chat.positions.some((one) => one < last) || news.positions.some((one) => one < broadcasts);
    while (behind() && Date.now() < deadline) await sleep(50);
    if (behind()) fault(`not everybody got everything: ${chat.positions} of ${last}, ${news.positions} of ${broadcasts}`);
    const { pagination } = await people[1].room.messages({ limit: 1 });
    const distinct = new Set(chat.texts.slice(1)).size;
    say('result', { ...counts, last, distinct, stored: pagination.total, broadcasts: news.texts.length - 1, faults });
  }
  if (line === 'end') break;
}
ending = true;
for (const { relay } of people) relay.disconnect();
process.exit(0);
