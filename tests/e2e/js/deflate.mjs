// A client with the package `ws`, which offers permessage-deflate by default: says what was negotiated and what it gets.
//
// Each line of stdin is sent as a message; `end` closes.
import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const [url, deflate] = process.argv.slice(2);
const say = (...event) => console.log(JSON.stringify(event));
const socket = new WebSocket(url, { perMessageDeflate: deflate === 'yes' ? { threshold: 0 } : false });
socket.on('open', () => say('open', socket.extensions));
socket.on('message', (data) => say('message', JSON.parse(data)));
socket.on('close', (code) => say('close', code));
socket.on('error', (error) => say('error', error.message));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'end') break;
  socket.send(line);
}
socket.terminate();
process.exit(0);
