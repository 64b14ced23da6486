// The channels with subscribers; and one channel: its history, a form to publish, and why a user may or may not.
import { get, post } from '/console/api.js'
import { button, code, empty, field, h, select, values } from '/console/dom.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt, notice } from '/console/notice.js'

export const title = 'Channels'
const INTERVAL = 4000

const link = (name, text = name) => h('a', { href: `#/channels/${encodeURIComponent(name)}` }, text)

export async function show(root, context) {
  if (context.argument) await one(root, context)
  else await all(root, context)
}

async function all(root, { signal, server }) {
  const filter = h(
    'form',
    { class: 'filter', role: 'search' },
    field('Pattern', h('input', { id: 'pattern', name: 'pattern', placeholder: 'market:*' })),
    button('Show', () => {}, { type: 'submit' }),
  )
  const name = h('input', { id: 'name', name: 'name', required: true, placeholder: 'market:BTC' })
  const any = h(
    'form',
    { class: 'filter' },
    field('Any channel', name),
    button('Open', () => {}, { type: 'submit' }),
  )
  const load = async (cursor) => {
    const page = await get('/v1/admin/channels', { ...values(filter), cursor, limit: 50 }, signal)
    return { entries: page.channels, cursor: page.cursor, unanswered: page.unanswered }
  }
  const columns = [
    ['Channel', (channel) => link(channel.name)],
    ['Subscribers', (channel) => format.count(channel.subscribers)],
    ['Offset', (channel) => format.count(channel.offset)],
    ['Kept', (channel) => format.count(channel.kept)],
    [
      '',
      (channel) =>
        h(
          'span',
          { class: 'actions' },
          h('a', { href: `#/tail/${encodeURIComponent(channel.name)}` }, 'Tail'),
          h('a', { href: `#/connections/${encodeURIComponent(channel.name)}` }, 'Connections'),
        ),
    ],
  ]
  const list = new List('Channels', columns, load, () =>
    empty(
      'No channel with such a name has a subscriber now.',
      'Subscribe a client on the page ',
      h('a', { href: '#/try' }, 'Try it'),
      ', or open any channel by its name above. Kinds here: ',
      code(server.namespaces.join(', ')),
      '.',
    ),
  )
  filter.addEventListener('submit', (event) => {
    event.preventDefault()
    list.refresh()
  })
  any.addEventListener('submit', (event) => {
    event.preventDefault()
    location.hash = `#/channels/${encodeURIComponent(name.value)}`
  })
  root.append(h('div', { class: 'filters' }, filter, any), list.element)
  await list.keepFresh(INTERVAL, signal)
}

async function one(root, { argument, rights, signal }) {
  const about = h('p', { class: 'faint' })
  const load = async (cursor) => {
    const page = await get('/v1/admin/history', { channel: argument, cursor, limit: 50 }, signal)
    about.textContent = page.epoch ? `Offset ${page.offset}, epoch ${page.epoch}` : 'Nothing was published here yet.'
    return { entries: page.publications, cursor: page.cursor }
  }
  const columns = [
    ['Offset', (publication) => format.count(publication.offset)],
    ['Time', (publication) => h('time', { datetime: publication.publishedAt }, format.clock(publication.publishedAt))],
    ['Type', (publication) => publication.type],
    ['Data', (publication) => h('pre', {}, format.pretty(publication.data))],
  ]
  const history = new List('History, the newest first', columns, load, () =>
    empty('The history is empty.', 'Publish something: what the channel keeps appears here.'),
  )
  root.append(
    h('h2', {}, argument),
    about,
    h(
      'p',
      { class: 'actions' },
      link('', 'All channels'),
      h('a', { href: `#/tail/${encodeURIComponent(argument)}` }, 'Tail'),
      h('a', { href: `#/connections/${encodeURIComponent(argument)}` }, 'Connections'),
    ),
  )
  if (rights.acts) root.append(publishing(argument, () => history.refresh()))
  root.append(h('h3', {}, 'History'), history.element, why(argument))
  await history.keepFresh(INTERVAL, signal)
}

function publishing(channel, published) {
  const data = h('textarea', { id: 'data', name: 'data', rows: 4, spellcheck: 'false', required: true }, '{}')
  const form = h(
    'form',
    { class: 'card', id: 'publish' },
    h('h3', {}, 'Publish'),
    field('Data, as JSON', data),
    field('Type (empty: that of the namespace)', h('input', { id: 'type', name: 'type' })),
    button('Publish', () => {}, { type: 'submit', class: 'primary' }),
  )
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    let parsed
    try {
      parsed = JSON.parse(data.value)
    } catch (error) {
      notice(`The data is not JSON: ${error.message}`, 'failed')
      data.focus()
      return
    }
    const { type } = values(form)
    const item = { channel, data: parsed, ...(type ? { type } : {}) }
    const done = ({ offset }) => (offset === undefined ? 'Published.' : `Published at offset ${offset}.`)
    if (await attempt(() => post('/v1/admin/publish', item), done)) published()
  })
  return form
}

function why(channel) {
  const answer = h('div', { 'aria-live': 'polite' })
  const form = h(
    'form',
    { class: 'filter' },
    field('User', h('input', { id: 'why-user', name: 'user' })),
    field('Action', select({ id: 'action', name: 'action' }, ['subscribe', 'publish'])),
    button('Explain', () => {}, { type: 'submit' }),
  )
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    const found = await attempt(() => post('/v1/admin/why', { channel, ...values(form) }))
    if (!found) return
    const steps = found.steps.map((step) =>
      h(
        'li',
        {},
        Object.values(step)
          .filter((text) => typeof text === 'string')
          .join(': '),
      ),
    )
    answer.replaceChildren(
      h('p', {}, h('strong', {}, found.allowed ? 'Allowed.' : `Refused: ${found.message}`)),
      h('ol', {}, steps),
      found.change ? h('p', {}, found.change) : '',
    )
  })
  return h('section', { class: 'card' }, h('h3', {}, 'Why may a user, or why not?'), form, answer)
}
