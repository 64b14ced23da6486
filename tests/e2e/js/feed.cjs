// The feeds API's example with reconnecting-websocket: node feed.cjs ws://127.0.0.1:8080/api/v1/ws/trades
const ReconnectingWebSocket = require('reconnecting-websocket');
const say = (event, value) => console.log(JSON.stringify([event, value]));
const options = { WebSocket: require('ws'), minReconnectionDelay: 100, maxReconnectionDelay: 300 };
const ws = new ReconnectingWebSocket(process.argv[2], [], options);
ws.onopen = () => say('open', null);
ws.onmessage = (event) => say('message', JSON.parse(event.data));
ws.onclose = (event) => say('close', event.code);
process.stdin.on('data', (text) => { if (String(text).startsWith('end')) process.exit(0); });
