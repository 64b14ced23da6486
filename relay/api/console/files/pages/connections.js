// The open connections: who is there, from where, with how much waiting; and their end.
import { get, post } from '/console/api.js'
import { button, code, empty, field, h, select, values } from '/console/dom.js'
import { ask, show as open } from '/console/dialog.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt } from '/console/notice.js'

export const title = 'Connections'
const INTERVAL = 4000

export async function show(root, { rights, server, signal, argument }) {
  const dialects = select({ id: 'dialect', name: 'dialect' }, [['', 'all'], ...server.dialects])
  const channel = h('input', { id: 'channel', name: 'channel', value: argument ?? '', placeholder: 'market:BTC' })
  const filter = h(
    'form',
    { class: 'filter', role: 'search' },
    field('User', h('input', { id: 'user', name: 'user' })),
    field('Dialect', dialects),
    field('Channel', channel),
    button('Show', () => {}, { type: 'submit' }),
  )
  const load = async (cursor) => {
    const page = await get('/v1/admin/connections', { ...values(filter), cursor, limit: 50 }, signal)
    return { entries: page.connections, cursor: page.cursor, total: page.total, unanswered: page.unanswered }
  }
  const list = new List(
    'Connections',
    columns(rights, () => list.refresh()),
    load,
    () =>
      empty(
        'No connection matches.',
        'Open the page ',
        h('a', { href: '#/try' }, 'Try it'),
        ', or connect a client: the handbook has ',
        h('a', { href: '/docs/getting-started' }, 'the first steps'),
        '.',
      ),
  )
  filter.addEventListener('submit', (event) => {
    event.preventDefault()
    list.refresh()
  })
  root.append(filter, list.element)
  await list.keepFresh(INTERVAL, signal)
}

function columns(rights, changed) {
  const shown = [
    ['User', (one) => h('strong', {}, one.userId ?? 'not authenticated')],
    ['Dialect', (one) => one.dialect],
    ['Address', (one) => one.address],
    ['Since', (one) => h('time', { datetime: one.since, title: one.since }, format.ago(one.since))],
    ['Channels', (one) => format.count(one.subscriptions)],
    ['Sent', (one) => format.bytes(one.sentBytes)],
    ['Waiting', (one) => format.bytes(one.waitingBytes)],
    [
      '',
      (one) =>
        h(
          'span',
          { class: 'actions' },
          button('Details', () => details(one.id)),
          rights.acts ? button('Disconnect', () => disconnect(one, changed), { class: 'danger' }) : null,
        ),
    ],
  ]
  return shown
}

async function details(id) {
  const one = await attempt(() => get(`/v1/admin/connections/${encodeURIComponent(id)}`))
  if (!one) return
  const channels = one.channels.length
    ? h(
        'ul',
        { class: 'names' },
        one.channels.map((name) => h('li', {}, h('a', { href: `#/channels/${encodeURIComponent(name)}` }, name))),
      )
    : h('p', { class: 'faint' }, 'It has no subscription.')
  open(
    `Connection of ${one.userId ?? 'a client without a user'}`,
    h('p', {}, 'Id ', code(one.id)),
    h('h3', {}, 'Channels'),
    channels,
  )
}

async function disconnect(one, changed) {
  const again = h('input', { type: 'checkbox', name: 'reconnect', id: 'reconnect' })
  const given = await ask(
    `Disconnect ${one.userId ?? one.id}?`,
    'Disconnect',
    h('p', {}, 'The connection closes at once. A client with a valid token may connect again.'),
    h('p', {}, h('label', {}, again, ' Tell the client that it may come back')),
  )
  if (given === null) return
  await attempt(
    () => post('/v1/admin/disconnect', { client: one.id, reconnect: given.has('reconnect') }),
    ({ disconnected, unanswered }) =>
      `${disconnected ? 'Disconnected.' : 'There is no such connection.'} ${format.incomplete(unanswered)}`.trim(),
  )
  changed()
}
