// A table that the server fills page by page. On a narrow screen each row is a card.
import { button, h } from '/console/dom.js'
import { incomplete } from '/console/format.js'
import { notice } from '/console/notice.js'

export class List {
  /**
   * `columns` are pairs of a title and a function from an entry to the content of its cell. `load(cursor)` returns a
   * promise of `{ entries, cursor, total, unanswered }`; the last names the nodes whose entries are missing. `empty()`
   * returns what is shown instead of an empty table.
   */
  constructor(caption, columns, load, empty) {
    this.columns = columns
    this.load = load
    this.empty = empty
    this.body = h('tbody')
    const head = h(
      'tr',
      {},
      columns.map(([title]) => h('th', { scope: 'col' }, title || h('span', { class: 'unseen' }, 'Actions'))),
    )
    this.table = h('table', {}, h('caption', { class: 'unseen' }, caption), h('thead', {}, head), this.body)
    this.place = h('div')
    this.more = button('More', () => this.next(), { hidden: true })
    this.about = h('p', { class: 'faint' })
    this.problem = h('p', { class: 'problem', 'aria-live': 'polite' })
    this.element = h('div', { class: 'list' }, this.problem, this.place, this.more, this.about)
    this.pages = 0
    this.turn = 0
  }

  /** Load the first page, and show it in the place of what is shown. */
  async refresh() {
    await this.fetch(null)
  }

  /** Load the first page again every `interval` milliseconds until `signal`, while it is visible and no other is shown. */
  async keepFresh(interval, signal) {
    await this.refresh()
    if (signal.aborted) return
    const timer = setInterval(() => {
      const busy = this.body.contains(document.activeElement)
      if (!document.hidden && this.pages <= 1 && !busy) this.refresh()
    }, interval)
    signal.addEventListener('abort', () => clearInterval(timer))
  }

  async next() {
    await this.fetch(this.cursor)
  }

  async fetch(cursor) {
    const turn = ++this.turn
    let page
    try {
      page = await this.load(cursor)
    } catch (refusal) {
      if (refusal.name !== 'AbortError') notice(refusal.message, 'failed')
      return
    }
    if (turn !== this.turn) return // a later request has overtaken this one
    const rows = page.entries.map((entry) => this.row(entry))
    if (cursor === null) this.body.replaceChildren(...rows)
    else this.body.append(...rows)
    this.pages = cursor === null ? 1 : this.pages + 1
    this.cursor = page.cursor
    this.more.hidden = !page.cursor
    const shown = this.body.rows.length
    this.problem.textContent = incomplete(page.unanswered)
    this.about.textContent = shown && page.total !== undefined ? `${shown} of ${page.total}` : ''
    this.place.replaceChildren(shown || page.cursor ? this.table : this.empty())
  }

  row(entry) {
    return h(
      'tr',
      {},
      this.columns.map(([title, cell]) => h('td', { 'data-title': title }, cell(entry))),
    )
  }
}
