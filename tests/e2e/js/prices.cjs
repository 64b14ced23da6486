// The example of the prices API's documentation, its artefacts mended, over socket.io-client.
//
//     node prices.cjs http://127.0.0.1:8080 KEY default|websocket|polling
//
// Prints what it is given, a JSON array a line: [event, value]. Ends on "end".
const { io } = require('socket.io-client');
const [url, apiKey, transport] = process.argv.slice(2);
const say = (event, value) => console.log(JSON.stringify([event, value]));

const options = { auth: { apiKey }, reconnection: true, reconnectionDelay: 200, reconnectionDelayMax: 400 };
if (transport !== 'default') options.transports = [transport];
const socket = io(`${url}/api-ws`, options);

// Receive all current prices on connect
socket.on('initial-prices', (prices) => say('initial-prices', prices));

// Receive real-time updates
socket.on('price-update', (update) => say('price-update', update));
socket.on('connect_error', (error) => { say('connect_error', error.message); });
socket.on('connect', () => say('connect', socket.io.engine.transport.name));
socket.on('disconnect', (reason) => say('disconnect', reason));
socket.io.engine.on('upgrade', (to) => say('upgrade', to.name));

process.stdin.on('data', (text) => {
  for (const line of String(text).split('\n')) {
    if (line === 'end') { socket.disconnect(); setTimeout(() => process.exit(0), 100); }
    else if (line) {
      const [event, payload] = JSON.parse(line);
      // Subscribe to specific symbols only
      socket.emit(event, payload, (answer) => say('ack', answer));
    }
  }
});
