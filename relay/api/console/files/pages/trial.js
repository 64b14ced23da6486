// A client to try each dialect with: it connects, sends what it is given, and shows the frames both ways.
import { post } from '/console/api.js'
import { button, field, h, select, values } from '/console/dom.js'
import { Frames } from '/console/frames.js'
import { attempt, notice } from '/console/notice.js'
import * as live from '/console/dialects/live.js'
import * as channels from '/console/dialects/channels.js'
import * as feeds from '/console/dialects/feeds.js'
import * as socketio from '/console/dialects/socketio.js'

export const title = 'Try it'
const DIALECTS = { live, channels, feeds, socketio }

export async function show(root, { rights, server, signal }) {
  const known = server.dialects.filter((name) => Object.hasOwn(DIALECTS, name))
  const chosen = select({ id: 'dialect', name: 'dialect' }, known)
  const channel = h('input', { id: 'channel', name: 'channel', value: 'market:BTC', required: true })
  const token = h('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'off', spellcheck: 'false' })
  const key = h('input', { id: 'api-key', name: 'key', type: 'password', autocomplete: 'off', spellcheck: 'false' })
  const tokenField = field('Token', token)
  const keyField = field('API key of tier pro with scope connect', key)
  const frames = new Frames()
  const connect = button('Connect', () => {}, { type: 'submit', class: 'primary' })
  const form = h(
    'form',
    { class: 'filter', id: 'trial' },
    field('Dialect', chosen),
    field('Channel', channel),
    tokenField,
    keyField,
    connect,
  )
  const samples = h('p', { class: 'actions', id: 'samples' })
  const text = h('textarea', { id: 'frame', rows: 4, spellcheck: 'false' })
  const sending = h(
    'form',
    { class: 'card' },
    h('h2', {}, 'Send'),
    samples,
    field('Frame', text),
    button('Send', () => {}, { type: 'submit' }),
  )

  let socket = null
  const given = () => ({ channel: '', token: '', key: '', ...values(form) })
  const send = (frame) => {
    if (socket?.readyState !== WebSocket.OPEN) return notice('Connect first.', 'failed')
    socket.send(frame)
    return frames.add('out', frame, token.value, key.value)
  }
  function choose() {
    const dialect = DIALECTS[chosen.value]
    tokenField.hidden = dialect.credential !== 'token'
    keyField.hidden = dialect.credential !== 'key'
    sending.hidden = !Object.keys(dialect.frames).length
    samples.replaceChildren(
      ...Object.entries(dialect.frames).map(([name, make]) =>
        button(name, () => {
          text.value = dialect.encode(make(given()))
          text.focus()
        }),
      ),
    )
    text.value = ''
  }
  function open() {
    const dialect = DIALECTS[chosen.value]
    const own = new WebSocket(`${location.origin.replace(/^http/, 'ws')}${dialect.path(given())}`)
    socket = own
    connect.textContent = 'Disconnect'
    frames.add('state', `connecting to ${new URL(own.url).pathname}`)
    own.addEventListener('open', () => {
      frames.add('state', 'connected')
      dialect.begin(given()).forEach(send)
    })
    own.addEventListener('message', ({ data }) => {
      frames.add('in', String(data), token.value, key.value)
      const answer = dialect.answer(data)
      if (answer !== null) send(answer)
    })
    own.addEventListener('close', ({ code, reason }) => {
      frames.add(
        'state',
        code === 1006
          ? 'not connected: the server refused, or is away'
          : `closed with ${code}${reason && `: ${reason}`}`,
      )
      if (socket === own) [socket, connect.textContent] = [null, 'Connect']
    })
  }
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    if (socket === null) open()
    else socket.close(1000)
  })
  sending.addEventListener('submit', (event) => {
    event.preventDefault()
    if (text.value) send(text.value)
  })
  chosen.addEventListener('change', choose)
  signal.addEventListener('abort', () => socket?.close(1000))
  root.append(
    h(
      'p',
      { class: 'faint' },
      'A client of your browser. It has the rights of its token or key alone, and not those of the console.',
    ),
  )
  if (rights.admin && server.signsTokens) root.append(tokenForm(token))
  root.append(form, h('div', { class: 'columns' }, sending, frames.element))
  choose()
}

/** Return the form that makes a short-lived token for a test user. */
function tokenForm(token) {
  const form = h(
    'form',
    { class: 'filter', id: 'minting' },
    field('Test user', h('input', { id: 'test-user', name: 'user', value: 'test-user', required: true })),
    button('Make a token', () => {}, { type: 'submit' }),
  )
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    const made = await attempt(
      () => post('/v1/admin/token', values(form)),
      ({ seconds }) => `The token is valid for ${seconds / 60} minutes.`,
    )
    if (made) token.value = made.token
  })
  return form
}
