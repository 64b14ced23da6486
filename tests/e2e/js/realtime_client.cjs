// The RealtimeClient of the live API's documentation, unchanged but for its address, and a scene for two of them.
//
//     node realtime_client.cjs ws://127.0.0.1:8080/v1/live ROOM ALICE_TOKEN BOB_TOKEN
//
// Prints what each client was given, a JSON array [client, type, data] a line, until it is told "end" on standard input.
const [address, room, aliceToken, bobToken] = process.argv.slice(2);
globalThis.WebSocket ??= require('ws');

class RealtimeClient {
  constructor(apiKey, token) {
    this.apiKey = apiKey;
    this.token = token;
    this.ws = null;
    this.handlers = {};
  }

  connect() {
    this.ws = new WebSocket(address);

    this.ws.onopen = () => {
      console.log('**Connected');
      
      // Authenticate
      this.ws.send(JSON.stringify({
        type: 'auth',
        token: this.token
      }));
    };

    this.ws.onmessage = (event) => {
      const message = JSON.parse(event.data);
      
      // Route to handler
      const handler = this.handlers[message.type];
      if (handler) {
        handler(message.data);
      }
    };

    this.ws.onclose = () => {
      console.log('Connection closed, reconnecting...');
      setTimeout(() => this.connect(), 5000);
    };

    this.ws.onerror = (error) => {
      console.error('WebSocket error:', error);
    };
  }

  on(eventType, handler) {
    this.handlers[eventType] = handler;
  }

  subscribe(channel, options = {}) {
    this.ws.send(JSON.stringify({
      type: 'subscribe',
      channel,
      ...options
    }));
  }

  sendMessage(chatroomId, message) {
    this.ws.send(JSON.stringify({
      type: 'chat:send',
      chatroomId,
      message
    }));
  }
}

const types = ['auth:success', 'subscribed', 'chat:message', 'market:price', 'user:online', 'user:offline',
  'notification:new', 'post:created', 'trade:created', 'session:started', 'error'];

function start(name, token) {
  const client = new RealtimeClient('unused', token);
  for (const type of types) client.on(type, (data) => console.log(JSON.stringify([name, type, data])));
  client.connect();
  const open = client.ws.onopen;
  return new Promise((resolve) => { client.ws.onopen = () => { open(); resolve(client); }; });
}

// Resolves when the client was told that it is in the room.
function joined(client) {
  return new Promise((resolve) => {
    const log = client.handlers['subscribed'];
    client.on('subscribed', (data) => { log(data); if (data.channel === 'chatroom') resolve(); });
    client.subscribe('chatroom', { chatroomId: room });
  });
}

(async () => {
  const alice = await start('alice', aliceToken);
  await joined(alice);
  alice.subscribe('market', { symbols: ['EUR/USD', 'GBP/JPY'] });
  alice.subscribe('notifications', { userId: 'alice' });
  const bob = await start('bob', bobToken);
  await joined(bob);
  alice.sendMessage(room, 'Hello everyone!');
  bob.sendMessage(room, 'Hello Alice!');
  process.stdin.on('data', (text) => { if (String(text).startsWith('end')) process.exit(0); });
})();
