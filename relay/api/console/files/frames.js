// The frames of one connection, both ways, as text. The newest is at the end.
import { button, h } from '/console/dom.js'
import * as format from '/console/format.js'

const MAX_SHOWN = 200
const MAX_CHARACTERS = 4000
const WORDS = { out: 'sent', in: 'received', state: 'state' }

export class Frames {
  constructor() {
    this.entries = h('ol', { class: 'frames', id: 'frames', 'aria-label': 'Frames' })
    this.element = h(
      'section',
      { class: 'card' },
      h('h2', {}, 'Frames'),
      h('p', { class: 'faint' }, '→ sent, ← received. Tokens and keys are not shown.'),
      h('div', { class: 'scroll', tabindex: '0', role: 'log', 'aria-label': 'Frames both ways' }, this.entries),
      button('Clear', () => this.entries.replaceChildren()),
    )
  }

  /** Show a frame. `way` is out, in, or state for a line about the connection. */
  add(way, text, ...hidden) {
    let shown = text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}… (${text.length} characters)` : text
    for (const secret of hidden.filter(Boolean)) shown = shown.replaceAll(secret, '…')
    const mark = { out: '→', in: '←', state: '·' }[way]
    this.entries.append(
      h(
        'li',
        { class: way },
        h('time', {}, format.clock(Date.now())),
        h('span', { class: 'way', 'aria-label': WORDS[way], role: 'img' }, mark),
        h('code', {}, shown),
      ),
    )
    while (this.entries.childElementCount > MAX_SHOWN) this.entries.firstElementChild.remove()
    const scroll = this.entries.parentElement
    scroll.scrollTop = scroll.scrollHeight
  }
}
