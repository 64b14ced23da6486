// Webhooks: their state, their events that wait or are dead, and the newest attempts.
import { get, post } from '/console/api.js'
import { button, code, empty, field, h, select } from '/console/dom.js'
import { ask } from '/console/dialog.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt } from '/console/notice.js'

export const title = 'Webhooks'
const PATH = '/v1/admin/webhooks'
const INTERVAL = 4000
const EXAMPLE = `[webhooks.backend]
url = "https://app.example.org/relay"
secret = "whsec_..."
events = ["user.*"]`

export async function show(root, context) {
  if (context.argument) await one(root, context)
  else await all(root, context)
}

async function all(root, { signal }) {
  const load = async () => {
    const page = await get(PATH, {}, signal).catch((refusal) => {
      if (refusal.status === 404) return { webhooks: [] } // a server without webhooks
      throw refusal
    })
    return { entries: page.webhooks, cursor: null }
  }
  const columns = [
    ['Webhook', (hook) => h('a', { href: `#/webhooks/${encodeURIComponent(hook.name)}` }, hook.name)],
    ['State', (hook) => hook.state],
    ['URL', (hook) => hook.url],
    ['Events', (hook) => hook.events.join(', ')],
    ['Pending', (hook) => format.count(hook.pending)],
    ['Oldest', (hook) => format.duration(hook.oldestSeconds)],
    ['Dead', (hook) => format.count(hook.dead)],
    ['Last error', (hook) => (hook.lastError ? `${hook.lastError}, ${format.ago(hook.lastErrorAt)}` : '–')],
  ]
  const list = new List('Webhooks', columns, load, () =>
    h(
      'div',
      {},
      empty(
        'No webhook is configured.',
        'A webhook tells a backend that a user came or left, and what happened in channels. Make a secret with ',
        code('relay webhooks secret'),
        ', write the webhook into relay.toml, and restart Relay:',
      ),
      h('pre', { class: 'card' }, EXAMPLE),
    ),
  )
  root.append(list.element)
  await list.keepFresh(INTERVAL, signal)
}

async function one(root, { argument, rights, signal }) {
  const path = `${PATH}/${encodeURIComponent(argument)}`
  const state = select({ id: 'state', name: 'state' }, [
    ['recent', 'newest attempts'],
    ['pending', 'pending'],
    ['dead', 'dead letters'],
  ])
  const load = async (cursor) => {
    const page = await get(`${path}/deliveries`, { state: state.value, cursor, limit: 50 }, signal)
    return { entries: page.deliveries, cursor: page.cursor }
  }
  const columns = [
    ['Event', (event) => event.type],
    ['Id', (event) => code(event.id)],
    ['Time', (event) => format.ago(event.at ?? event.createdAt)],
    ['Attempts', (event) => format.count(event.attempt ?? event.attempts)],
    ['Status', (event) => event.status ?? '–'],
    ['Took', (event) => (event.milliseconds === undefined ? '–' : `${format.count(event.milliseconds)} ms`)],
    ['Error', (event) => event.error ?? '–'],
  ]
  const act = (action, body, done) => attempt(() => post(`${path}/${action}`, body), done).then(() => list.refresh())
  const replay = ({ id }) => act('replay', { id }, 'It is sent again.')
  if (rights.acts) {
    columns.push([
      '',
      (event) =>
        event.deadAt
          ? h(
              'span',
              { class: 'actions' },
              button('Replay', () => replay(event)),
            )
          : '',
    ])
  }
  const list = new List('Deliveries', columns, load, () =>
    empty(
      'Nothing is here.',
      'Events that were delivered are not kept. The newest attempts are those of this node since its start.',
    ),
  )
  state.addEventListener('change', () => list.refresh())
  root.append(
    h('h2', {}, argument),
    h('p', {}, h('a', { href: '#/webhooks' }, 'All webhooks')),
    h('form', { class: 'filter' }, field('Show', state), rights.acts ? actions(act) : null),
    list.element,
  )
  await list.keepFresh(INTERVAL, signal)
}

function actions(act) {
  const discard = async () => {
    const given = await ask(
      'Discard all dead letters?',
      'Discard',
      h('p', {}, 'For good: the receiver never gets these events.'),
    )
    if (given !== null) act('discard', {}, ({ discarded }) => `${discarded} discarded.`)
  }
  return h(
    'span',
    { class: 'actions' },
    button('Send a test event', () => act('test', {}, 'A test event is on its way.')),
    button('Replay all dead letters', () => act('replay', {}, ({ replayed }) => `${replayed} are sent again.`)),
    button('Discard them', discard, { class: 'danger' }),
    button('Enable', () => act('enable', {}, 'The webhook sends again.')),
  )
}
