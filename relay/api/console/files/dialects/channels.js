// The dialect `channels`: JSON frames, and the token in the address.

export const path = ({ token }) => `/api/ws?token=${encodeURIComponent(token)}`
export const credential = 'token'

export const frames = {
  subscribe: ({ channel }) => ({
    type: 'subscribe',
    data: { channel: channel.replace(/^chatroom:/, 'conversation:') },
  }),
  unsubscribe: ({ channel }) => ({
    type: 'unsubscribe',
    data: { channel: channel.replace(/^chatroom:/, 'conversation:') },
  }),
  ping: () => ({ type: 'ping' }),
}

export const begin = () => []
export const encode = (frame) => JSON.stringify(frame)
export const answer = () => null
