// The console: signs in, shows one page at a time, and goes where the address says.
import { get, prove } from '/console/api.js'
import { button, h } from '/console/dom.js'
import { notice } from '/console/notice.js'
import * as session from '/console/session.js'
import * as overview from '/console/pages/overview.js'
import * as connections from '/console/pages/connections.js'
import * as channels from '/console/pages/channels.js'
import * as rooms from '/console/pages/rooms.js'
import * as keys from '/console/pages/keys.js'
import * as webhooks from '/console/pages/webhooks.js'
import * as tail from '/console/pages/tail.js'
import * as trial from '/console/pages/trial.js'

const PAGES = { overview, connections, channels, rooms, keys, webhooks, tail, try: trial }
const main = document.getElementById('main')
const nav = document.getElementById('pages')
const who = document.getElementById('who')

let rights = null
let server = null
let leaving = new AbortController()
let visited = false

/** Show the page that the address names: `#/rooms/gold` is the page `rooms` with the argument `gold`. */
function visit() {
  if (rights === null || !(location.hash === '' || location.hash.startsWith('#/'))) return
  leaving.abort()
  leaving = new AbortController()
  const [name, ...rest] = location.hash.slice(2).split('/')
  const known = Object.hasOwn(PAGES, name) ? name : 'overview'
  const page = PAGES[known]
  for (const link of nav.querySelectorAll('a')) {
    if (link.dataset.page === known) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  const title = h('h1', { tabindex: '-1' }, page.title)
  const content = h('div', { class: 'page', id: `page-${known}` })
  main.replaceChildren(title, content)
  document.title = `${page.title} · Relay console`
  nav.querySelector('[aria-current]').scrollIntoView({ block: 'nearest', inline: 'nearest' })
  if (visited) title.focus({ preventScroll: true })
  visited = true
  const argument = rest.length ? decodeURIComponent(rest.join('/')) : null
  const { signal } = leaving
  Promise.resolve(page.show(content, { rights, server, signal, argument })).catch((error) => {
    if (!signal.aborted) notice(error.message, 'failed')
  })
}

async function begin(opened) {
  prove(opened.proof, () => stop('Your session has ended. Sign in again.'))
  rights = opened
  server = await get('/v1/admin/server')
  nav.replaceChildren(
    ...Object.entries(PAGES).map(([name, page]) => h('a', { href: `#/${name}`, 'data-page': name }, page.title)),
  )
  const role = rights.admin ? 'admin' : rights.acts ? 'may act' : 'may read'
  who.replaceChildren(h('span', {}, `${rights.user} (${role})`), button('Sign out', leave))
  nav.hidden = who.hidden = false
  visit()
}

async function leave() {
  await session.end()
  stop('')
}

function stop(problem) {
  leaving.abort()
  prove(null)
  rights = null
  visited = false
  nav.hidden = who.hidden = true
  nav.replaceChildren()
  who.replaceChildren()
  document.querySelectorAll('dialog').forEach((dialog) => dialog.remove())
  document.title = 'Relay console'
  session.form(main, begin, problem)
}

window.addEventListener('hashchange', visit)
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault()
  main.focus()
})
try {
  const opened = await session.restore()
  if (opened) await begin(opened)
  else stop('')
} catch (refusal) {
  stop(refusal.message)
}
