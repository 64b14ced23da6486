// The dialect `socketio`: packets of Engine.IO 4 and Socket.IO 5 over WebSocket, in the namespace /api-ws.

const symbol = (channel) => channel.replace(/^market:/, '')

export const path = () => '/socket.io/?EIO=4&transport=websocket'
export const credential = 'key'

export const frames = {
  subscribe: ({ channel }) => ['subscribe', { symbols: [symbol(channel)] }],
  unsubscribe: ({ channel }) => ['unsubscribe', { symbols: [symbol(channel)] }],
}

/** Connect to the namespace. The server greets first, and takes this packet after that. */
export const begin = ({ key }) => [`40/api-ws,${JSON.stringify({ apiKey: key })}`]

export const encode = (frame) => `42/api-ws,${JSON.stringify(frame)}`

/** Return the packet that answers a packet of the server: PONG to PING. */
export const answer = (packet) => (packet === '2' ? '3' : null)
