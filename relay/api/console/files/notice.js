// Short notices at the edge of the page, which a screen reader reads out.
import { button, h } from '/console/dom.js'

const SHOWN = 6000

/** Show a notice for some seconds. The same one is shown once at a time. */
export function notice(text, kind = 'done') {
  const place = document.getElementById('notices')
  for (const other of place.children) if (other.firstChild.textContent === text) other.remove()
  const shown = h(
    'p',
    { class: `notice ${kind}` },
    h('span', {}, text),
    button('×', () => shown.remove(), { 'aria-label': 'Close' }),
  )
  place.append(shown)
  setTimeout(() => shown.remove(), SHOWN)
}

/** Run an action, and show what it did or why it was refused. Return its value; undefined if it was refused. */
export async function attempt(action, done) {
  try {
    const value = await action()
    if (done) notice(typeof done === 'function' ? done(value) : done)
    return value
  } catch (refusal) {
    if (refusal.name !== 'AbortError') notice(refusal.message, 'failed')
    return undefined
  }
}
