// A chat with presence, typing and prices: the client of Relay, a browser, and nothing else.
import { Relay, Unauthorized } from '/relay.js'

const $ = (id) => document.getElementById(id)
let room = null
function element(tag, properties, ...content) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...content)
  return made
}

function avatar(userId) {
  const made = element('span', { className: 'avatar' }, userId.slice(0, 1).toUpperCase())
  made.style.setProperty('--hue', [...userId].reduce((hue, letter) => (hue * 31 + letter.codePointAt(0)) % 360, 7))
  return made
}

// The server of `relay demo` makes a token for any name. On other servers, paste one of `relay token NAME`.
async function fetchToken(name, reason) {
  if (name.split('.').length === 3 && reason === 'connect') return name
  const headers = { 'Content-Type': 'application/json' }
  const response = await fetch('/demo/token', { method: 'POST', headers, body: JSON.stringify({ name }) })
  const { data, message } = await response.json()
  if (response.ok) return data.token
  throw new Unauthorized(response.status === 404 ? 'Paste a valid token here. To make one: relay token ada' : message)
}

function showMessage({ messageId, userId, message, timestamp }, own) {
  if ($(messageId)) return
  const time = new Date(timestamp).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
  const content = [element('b', {}, userId), element('time', {}, time), element('p', {}, message)]
  const bubble = element('div', { className: 'bubble' }, ...content)
  const className = userId === own ? 'own' : ''
  const item = element('li', { id: messageId, className }, avatar(userId), bubble)
  item.dataset.at = timestamp
  $('messages').insertBefore(item, [...$('messages').children].find(({ dataset }) => dataset.at > timestamp) ?? null)
  $('messages').scrollTop = $('messages').scrollHeight
}

function showPrice({ symbol, price }) {
  const item = $(symbol) ?? element('li', { id: symbol }, element('b', {}, symbol), ' ', element('span', {}))
  item.dataset.moved = price < (item.dataset.price ?? price) ? 'down' : 'up'
  item.dataset.price = price
  item.lastChild.textContent = price.toLocaleString('en', { minimumFractionDigits: price < 10 ? 4 : 2 })
  if (!item.isConnected) $('prices').append(item)
}

function showPresent() {
  const show = ({ userId }) => element('li', {}, avatar(userId), userId)
  room?.presence().then(({ users }) => $('present').replaceChildren(...users.map(show)), () => {})
}

function enter(relay, id) {
  room?.unsubscribe()
  for (const button of $('rooms').querySelectorAll('button')) button.ariaCurrent = String(button.value === id)
  $('messages').replaceChildren()
  const entered = (room = relay.room(id))
  room.on('message', (message) => showMessage(message, relay.userId))
  const typing = new Set()
  room.on('typing', ({ userId, isTyping }) => {
    typing[isTyping ? 'add' : 'delete'](userId)
    $('typing').textContent = typing.size ? `typing: ${[...typing].join(', ')} …` : ''
  })
  room.on('subscribed', async ({ recovered }) => {
    showPresent()
    if (recovered) return // Nothing was missed: the page shows everything already.
    const { items } = await entered.messages({ limit: 50 })
    if (room !== entered) return
    for (const one of items.reverse()) showMessage({ ...one, messageId: one.id, timestamp: one.createdAt }, relay.userId)
  })
}

async function join(name) {
  const relay = new Relay(location.origin, { getToken: ({ reason }) => fetchToken(name, reason) })
  relay.on('state', ({ state, retryIn }) => {
    $('state').dataset.state = state
    $('state').textContent = retryIn ? `back in ${Math.ceil(retryIn / 1000)} s` : state
  })
  for (const event of ['online', 'offline']) relay.on(event, showPresent)
  const onPublication = ({ data }) => showPrice(data)
  for (const symbol of ['BTC', 'ETH', 'EUR/USD', 'GOLD']) relay.market(symbol, { onPublication })
  await relay.ready()
  const { items } = await relay.rooms()
  if (!items.length) throw new Error('This server has no rooms yet.')
  const buttons = items.reverse().map(({ id, name }) => element('button', { value: id }, name))
  $('rooms').append(...buttons.map((button) => element('li', {}, button)))
  $('rooms').addEventListener('click', ({ target }) => target.value && enter(relay, target.value))
  $('join').hidden = true
  $('chat').hidden = false
  enter(relay, items[0].id)
  setInterval(showPresent, 3000) // Users that change the room stay online, so no event tells of it.
}

$('join').addEventListener('submit', (event) => {
  event.preventDefault()
  join($('name').value.trim()).catch((error) => ($('problem').textContent = error.message))
})
$('message').addEventListener('input', ({ target }) => room.typing(target.value !== ''))
$('send').addEventListener('submit', (event) => {
  event.preventDefault()
  room.send($('message').value).catch((error) => ($('typing').textContent = error.message))
  $('message').value = ''
})
