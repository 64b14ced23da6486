// A program that uses the types of the client as an application does. It is compiled and not run.
import { Relay, RelayError, Unauthorized, type Position, type Publication } from '../../../relay/client/js/relay.js'

interface Order {
  state: 'open' | 'paid'
  total: number
}

const relay = new Relay('https://relay.example.org', {
  getToken: async ({ reason }) => {
    const response = await fetch(`/relay-token?reason=${reason}`)
    if (response.status === 401) throw new Unauthorized('logged out')
    return response.text()
  },
  maxDelay: 10_000,
})

relay.on('state', ({ state, retryIn }) => console.log(state, retryIn?.toFixed()))
relay.on('online', ({ userId }) => console.log(userId.toUpperCase()))

const room = relay.room('gold')
const off: () => void = room.on('message', ({ userId, message, offset }) => console.log(userId, message, offset ?? 0))
room.on('typing', ({ isTyping }) => console.log(isTyping ? 'types' : 'stopped'))
const { messageId }: { messageId: string } = await room.send('Hello', { id: 'm-1' })
const older = await room.messages({ before: messageId, limit: 20 })
console.log(older.items.map((message) => message.createdAt), older.pagination?.total)

const orders = relay.subscribe<Order>('orders:42', {
  last: 1,
  onPublication: (publication: Publication<Order>) => console.log(publication.data.total * 2),
  onSubscribed: ({ wasRecovering, recovered }) => wasRecovering && !recovered && location.reload(),
})
const position: Position | null = await orders.publish({ state: 'paid', total: 5 }, { echo: false })
if (position) console.log(position.offset, (await orders.history({ since: position })).publications[0]?.data.state)
for await (const { data } of orders) if (data.state === 'paid') break

relay.market('BTC').on('publication', ({ data }) => console.log(data.price + 1))
relay.notifications().on('publication', ({ data }) => console.log(data.title.length))
console.log((await relay.notifications().list()).items.filter(({ read }) => !read).length)

try {
  await relay.publish('orders:42', { any: ['json', 1, null] })
} catch (error) {
  if (error instanceof RelayError && error.temporary) console.log(error.code, error.retryAfter ?? 1)
}

// @ts-expect-error: there is no such state
if (relay.state === 'closed') off()
// @ts-expect-error: an order has no such field
orders.on('publication', ({ data }) => data.price)
// @ts-expect-error: a message is a text
await room.send(5)
// @ts-expect-error: there is no such event
room.on('massage', () => {})
// @ts-expect-error: subscriptions are made by Relay
new (await import('../../../relay/client/js/relay.js')).Subscription()
