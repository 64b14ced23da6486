// Live plots of figures by uPlot. The newest values are text beside the plot, for a screen reader too.
import { h } from '/console/dom.js'
import { clock } from '/console/format.js'

const HEIGHT = 150
const KEPT = 300
const COLOURS = ['--plot-1', '--plot-2', '--plot-3', '--plot-4', '--plot-5']
const dark = matchMedia('(prefers-color-scheme: dark)')

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

export class Plot {
  /** `format(value)` returns a value as text. `signal` ends the plot. */
  constructor(title, format, signal) {
    this.title = title
    this.format = format
    this.names = []
    this.times = []
    this.values = []
    this.canvas = h('div', { class: 'canvas', role: 'img', 'aria-label': `${title}, over the last five minutes` })
    this.legend = h('dl', { class: 'legend' })
    this.element = h('figure', { class: 'plot' }, h('figcaption', {}, title), this.legend, this.canvas)
    const sized = new ResizeObserver(() => this.drawn?.setSize({ width: this.canvas.clientWidth, height: HEIGHT }))
    const redraw = () => this.build()
    sized.observe(this.canvas)
    dark.addEventListener('change', redraw)
    signal.addEventListener('abort', () => {
      sized.disconnect()
      dark.removeEventListener('change', redraw)
      this.drawn?.destroy()
    })
  }

  /** Add samples: each is a time in milliseconds, and values by the name of their series. */
  push(samples) {
    const names = [...new Set([...this.names, ...samples.flatMap(([, values]) => Object.keys(values))])]
    const grown = names.length !== this.names.length
    this.names = names
    for (const [time, values] of samples) {
      this.times.push(time / 1000)
      names.forEach((name, place) =>
        (this.values[place] ??= Array(this.times.length - 1).fill(null)).push(values[name] ?? null),
      )
    }
    this.times.splice(0, this.times.length - KEPT)
    this.values.forEach((series) => series.splice(0, series.length - KEPT))
    if (!this.drawn || grown) this.build()
    else this.drawn.setData([this.times, ...this.values])
    this.tell()
  }

  tell() {
    this.canvas.dataset.samples = this.times.length
    this.legend.replaceChildren(
      ...this.names.map((name, place) => {
        const value = this.values[place].at(-1)
        const mark = h('i', { class: `mark mark-${place % COLOURS.length}`, 'aria-hidden': 'true' })
        return h('div', {}, mark, h('dt', {}, name), h('dd', {}, value === null ? '–' : this.format(value)))
      }),
    )
  }

  build() {
    if (!window.uPlot) return // it did not load, and the newest values are there without it
    this.drawn?.destroy()
    const [ink, line] = [colour('--faint'), colour('--edge')]
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false } }
    const series = this.names.map((label, place) => ({
      label,
      stroke: colour(COLOURS[place % COLOURS.length]),
      width: 1.5,
      spanGaps: true,
      points: { show: false },
    }))
    const options = {
      width: this.canvas.clientWidth || 300,
      height: HEIGHT,
      series: [{}, ...series],
      legend: { show: false },
      cursor: { show: false },
      axes: [
        { ...axis, space: 90, values: (_, ticks) => ticks.map((time) => clock(time * 1000)) },
        { ...axis, size: 58, values: (_, ticks) => ticks.map(this.format) },
      ],
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.1)] } },
    }
    this.drawn = new window.uPlot(options, [this.times, ...this.values], this.canvas)
  }
}
