// What is published, as it happens.
import { lines } from '/console/api.js'
import { button, empty, field, h } from '/console/dom.js'
import * as format from '/console/format.js'

export const title = 'Tail'
const MAX_SHOWN = 300
const RATE = 50

export async function show(root, { signal, argument }) {
  const pattern = h('input', { id: 'pattern', name: 'pattern', value: argument ?? '*', placeholder: 'market:*' })
  const form = h(
    'form',
    { class: 'filter' },
    field('Channels', pattern),
    button('Follow', () => {}, { type: 'submit', class: 'primary' }),
  )
  const pause = button('Pause', () => setPaused(!paused), { 'aria-pressed': 'false' })
  const clear = button('Clear', () => entries.replaceChildren())
  const state = h('p', { class: 'faint', id: 'tail-state', role: 'status' })
  const entries = h('ol', { class: 'tail', id: 'entries', 'aria-label': 'Publications, the newest first' })
  const hint = empty(
    'Nothing was published yet.',
    'Publish on the page of a channel, on ',
    h('a', { href: '#/try' }, 'Try it'),
    ', or with relay publish.',
  )
  form.append(pause, clear)
  root.append(form, state, hint, entries)

  let paused = false
  let held = 0
  let skipped = 0
  let following = new AbortController()
  const tell = (text) => {
    const left = [
      skipped ? `${format.count(skipped)} left out, because a page takes ${RATE} a second` : '',
      held ? `${held} while paused` : '',
    ]
    state.textContent = [text, ...left.filter(Boolean)].join('; ')
  }
  function setPaused(value) {
    paused = value
    pause.textContent = paused ? 'Go on' : 'Pause'
    pause.setAttribute('aria-pressed', String(paused))
    if (!paused) held = 0
    tell(paused ? 'Paused' : 'Following')
  }
  function take(entry) {
    if (entry.skipped) skipped += entry.skipped
    else if (paused) held += 1
    else {
      hint.hidden = true
      entries.prepend(line(entry))
      while (entries.childElementCount > MAX_SHOWN) entries.lastElementChild.remove()
    }
    if (entry.skipped || paused) tell(paused ? 'Paused' : 'Following')
  }
  async function follow() {
    following.abort()
    const own = (following = new AbortController())
    signal.addEventListener('abort', () => own.abort(), { once: true })
    skipped = 0
    setPaused(false)
    try {
      for await (const entry of lines('/v1/admin/tail', { pattern: pattern.value, rate: RATE }, own.signal)) take(entry)
      if (!own.signal.aborted) tell('The server ended the stream')
    } catch (error) {
      if (!own.signal.aborted) tell(error.message)
    }
  }
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    follow()
  })
  await follow()
}

function line(entry) {
  const channel = h('a', { href: `#/channels/${encodeURIComponent(entry.channel)}` }, entry.channel)
  const place = entry.offset ? ` ${entry.offset}` : ''
  return h(
    'li',
    {},
    h(
      'p',
      {},
      h('time', { datetime: entry.publishedAt }, format.clock(entry.publishedAt)),
      ' ',
      channel,
      place,
      ' ',
      h('b', {}, entry.type),
    ),
    h('pre', {}, JSON.stringify(entry.data)),
  )
}
