// The dialect `live`: JSON frames, and a token in the first one.

export const path = () => '/v1/live'
export const credential = 'token'

/** The frames that a client of this dialect may begin with, by their name. `given` has `token` and `channel`. */
export const frames = {
  authenticate: ({ token }) => ({ type: 'auth', token }),
  subscribe: ({ channel }) => ({ type: 'subscribe', channel, last: 5 }),
  'send a message': ({ channel }) => ({
    type: 'chat:send',
    chatroomId: channel.replace(/^chatroom:/, ''),
    message: 'Hello',
  }),
  presence: ({ channel }) => ({ type: 'presence', channel }),
  unsubscribe: ({ channel }) => ({ type: 'unsubscribe', channel }),
  ping: () => ({ type: 'ping' }),
}

/** The frames that are sent by themselves once the connection is open. */
export const begin = ({ token }) => (token ? [JSON.stringify(frames.authenticate({ token }))] : [])

export const encode = (frame) => JSON.stringify(frame)
export const answer = () => null
