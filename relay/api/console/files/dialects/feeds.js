// The dialect `feeds`: the path says what the client gets, and there is nothing to send.

const id = (channel) => channel.slice(channel.indexOf(':') + 1)

/** Return the path of a feed for a channel such as market:BTC, event:42 or trades. */
export function path({ channel }) {
  if (channel.startsWith('market:')) return `/api/v1/ws/assets/${encodeURIComponent(id(channel))}/price`
  if (channel.startsWith('event:')) return `/api/v1/ws/events/${encodeURIComponent(id(channel))}/chart`
  return '/api/v1/ws/trades'
}

export const credential = null
export const frames = {}
export const begin = () => []
export const encode = (frame) => JSON.stringify(frame)
export const answer = () => null
