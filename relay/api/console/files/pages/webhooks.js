// Webhooks and their deliveries.
import { get, post } from '/console/api.js'
import { button, empty, h } from '/console/dom.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt } from '/console/notice.js'

export const title = 'Webhooks'
const PATH = '/v1/admin/webhooks'
const EXAMPLE = `[[webhooks]]
name = "backend"
url = "https://app.example.org/relay"
secret = "whsec_..."
events = ["user.*", "channel.occupied", "channel.vacated"]`

export async function show(root, context) {
  if (context.argument) await deliveries(root, context)
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
    ['URL', (hook) => hook.url],
    ['Events', (hook) => hook.events.join(', ')],
    ['Pending', (hook) => format.count(hook.pending)],
    ['Dead', (hook) => format.count(hook.dead)],
    ['Last error', (hook) => hook.lastError ?? '–'],
  ]
  const list = new List('Webhooks', columns, load, () => h('div', {},
    empty('No webhook is configured.', 'A webhook tells a backend that a user came or left, and what happened in channels. Write one into ',
      'relay.toml, and restart Relay:'), h('pre', { class: 'card' }, EXAMPLE)))
  root.append(list.element)
  await list.refresh()
}

async function deliveries(root, { argument, rights, signal }) {
  const path = `${PATH}/${encodeURIComponent(argument)}`
  const load = async (cursor) => {
    const page = await get(`${path}/deliveries`, { cursor, limit: 50 }, signal)
    return { entries: page.deliveries, cursor: page.cursor }
  }
  const columns = [
    ['Event', (one) => one.type],
    ['Id', (one) => one.id],
    ['Created', (one) => format.ago(one.createdAt)],
    ['Attempts', (one) => format.count(one.attempts)],
    ['State', (one) => one.state],
    ['Last error', (one) => one.lastError ?? '–'],
  ]
  if (rights.acts) {
    const replay = (one) => attempt(() => post(`${path}/replay`, { id: one.id }), 'It is sent again.').then(() => list.refresh())
    columns.push(['', (one) => h('span', { class: 'actions' }, button('Replay', () => replay(one)))])
  }
  const list = new List('Deliveries that are pending or dead', columns, load,
    () => empty('Nothing waits.', 'Every event was delivered; those are not kept.'))
  root.append(h('h2', {}, argument), h('p', {}, h('a', { href: '#/webhooks' }, 'All webhooks')), list.element)
  await list.refresh()
}
