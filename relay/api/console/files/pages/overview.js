// The state of the server at a glance: figures, live plots and nodes.
import { get, lines } from '/console/api.js'
import { h } from '/console/dom.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { notice } from '/console/notice.js'
import { Plot } from '/console/plot.js'

export const title = 'Overview'
const RETRY = 3000
const NODES_INTERVAL = 5000

const rate = (value) => `${format.count(Math.round(value * 10) / 10)}/s`
const milliseconds = (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`

const sum = (values) => Object.values(values).reduce((total, value) => total + value, 0)

/** The plots, each with the values that it takes from one sample. */
const PLOTS = [
  ['Connections by dialect', format.count, (sample) => sample.connections],
  [
    'Publications and deliveries a second',
    rate,
    (sample) => ({ publications: sample.publications, deliveries: sum(sample.deliveries) }),
  ],
  ['Loop lag and commit time', milliseconds, (sample) => ({ 'loop lag': sample.lag, commit: sample.commit })],
  ['Memory', (value) => format.bytes(value), (sample) => ({ memory: sample.memory })],
]

const TILES = [
  ['Connections', (sample) => format.count(sum(sample.connections))],
  ['Users', (sample) => format.count(sample.users)],
  ['Channels', (sample) => format.count(sample.channels)],
  ['Publications', (sample) => rate(sample.publications)],
  ['Deliveries', (sample) => rate(sum(sample.deliveries))],
  ['Cut off as too slow', (sample) => format.count(sample.tooSlow)],
  ['Handshakes refused', (sample) => format.count(sample.refused)],
  ['Nodes', (sample) => format.count(sample.nodes)],
]

export async function show(root, { server, signal }) {
  const state = h(
    'p',
    { id: 'server-state', 'data-ready': String(server.ready) },
    server.ready ? 'Ready' : `Not ready: ${server.reason}`,
    ` · Relay ${server.version} · node ${server.node} · ${server.store} · up ${format.duration(server.uptime)}`,
  )
  const figures = TILES.map(([name]) => h('dd', { 'data-figure': name }, '–'))
  const tiles = h(
    'dl',
    { class: 'tiles' },
    TILES.map(([name], place) => h('div', {}, h('dt', {}, name), figures[place])),
  )
  const plots = PLOTS.map(([name, shown]) => new Plot(name, shown, signal))
  const nodes = nodesList()
  root.append(
    state,
    tiles,
    h(
      'div',
      { class: 'plots' },
      plots.map((plot) => plot.element),
    ),
    h('h2', {}, 'Nodes'),
    nodes.about,
    nodes.list.element,
  )
  await nodes.list.keepFresh(NODES_INTERVAL, signal)
  await follow(signal, (samples) => {
    plots.forEach((plot, place) => plot.push(samples.map((sample) => [sample.at, PLOTS[place][2](sample)])))
    TILES.forEach(([, shown], place) => {
      figures[place].textContent = shown(samples.at(-1))
    })
  })
}

/** Take samples until the page is left. Those that come together, as at the start, are taken together. */
async function follow(signal, take) {
  let newest = 0
  while (!signal.aborted) {
    let waiting = []
    const flush = () => {
      if (waiting.length && !signal.aborted) take(waiting)
      waiting = []
    }
    try {
      for await (const sample of lines('/v1/admin/figures', {}, signal)) {
        if (sample.at <= newest) continue // kept from before a lost connection
        newest = sample.at
        if (waiting.push(sample) === 1) setTimeout(flush)
      }
    } catch (error) {
      if (signal.aborted) return
      notice(`The figures stopped: ${error.message}`, 'failed')
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY))
  }
}

function nodesList() {
  const about = h('p', { class: 'faint' })
  const load = async () => {
    const { nodes, bus } = await get('/v1/admin/nodes')
    about.textContent =
      bus === null
        ? 'This server has its database alone. Several nodes need PostgreSQL: see the handbook, several-machines.'
        : `Bus ${bus.connected ? 'connected' : 'lost'}, lag ${milliseconds(bus.lag * 1000)}, ${bus.reconnects} reconnects. ` +
          `The lease of this node holds for ${bus.lease} s.`
    return { entries: nodes, cursor: null }
  }
  const columns = [
    ['Node', (node) => `${node.name}${node.self ? ' (this one)' : ''}`],
    ['Connections', (node) => format.count(node.connections)],
    ['Users', (node) => format.count(node.users)],
    ['Version', (node) => node.version ?? '–'],
    ['Up', (node) => format.duration(node.uptime)],
  ]
  return { about, list: new List('Nodes', columns, load, () => h('p', {}, 'No node is known.')) }
}
