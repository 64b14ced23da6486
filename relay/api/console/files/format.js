// Numbers and times for people.

const whole = new Intl.NumberFormat()

/** Return a count, or a dash for null. */
export const count = (number) => (number === null || number === undefined ? '–' : whole.format(number))

/** Say that an answer lacks the part of these nodes; nothing if all have answered. */
export const incomplete = (unanswered = []) =>
  unanswered.length ? `Incomplete: no answer from ${unanswered.join(', ')}.` : ''

/** Return a size such as 1.5 MB. */
export function bytes(size) {
  if (size === null || size === undefined) return '–'
  const units = ['B', 'KB', 'MB', 'GB']
  let place = 0
  while (size >= 1000 && place < units.length - 1) [size, place] = [size / 1000, place + 1]
  return `${place ? size.toFixed(1) : size} ${units[place]}`
}

/** Return a duration such as 3 h 20 min, of a number of seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–'
  const parts = [
    ['d', 86400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ]
  const first = parts.findIndex(([, size]) => seconds >= size)
  if (first < 0) return '0 s'
  const [unit, size] = parts[first]
  const rest = parts[first + 1]
  const small = rest ? Math.floor((seconds % size) / rest[1]) : 0
  return `${Math.floor(seconds / size)} ${unit}${small ? ` ${small} ${rest[0]}` : ''}`
}

/** Return how long ago a time was. */
export const ago = (time) => `${duration(Math.max(0, Math.round((Date.now() - new Date(time)) / 1000)))} ago`

/** Return the time of day. */
export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false })

/** Return a value as JSON on several lines. */
export const pretty = (value) => JSON.stringify(value, null, 2)
