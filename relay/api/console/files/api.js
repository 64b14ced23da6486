// Requests to the server, with the proof of the session beside its cookie.

/** A request that the server refused. */
export class Refusal extends Error {
  constructor(status, answer) {
    super(answer?.message ?? `The server answered ${status}.`) // the message says all that `errors` says by field
    this.status = status
  }
}

let proof = null
let onSignedOut = () => {}

/** Send this proof with each request from now on. `signedOut` is called when the session has ended. */
export function prove(value, signedOut = () => {}) {
  proof = value
  onSignedOut = signedOut
}

async function send(method, path, body, signal) {
  const headers = proof === null ? {} : { 'X-Console-Proof': proof }
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  const content = body === undefined ? undefined : JSON.stringify(body)
  const response = await fetch(path, { method, headers, body: content, signal, cache: 'no-store' })
  if (response.ok) return response
  const refusal = new Refusal(response.status, await response.json().catch(() => null))
  if (response.status === 401 && proof !== null) onSignedOut()
  throw refusal
}

const withQuery = (path, query) => {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '')
  return given.length ? `${path}?${new URLSearchParams(given)}` : path
}

async function data(...request) {
  return (await (await send(...request)).json()).data
}

export const get = (path, query = {}, signal) => data('GET', withQuery(path, query), undefined, signal)
export const post = (path, body = {}) => data('POST', path, body)
export const remove = (path) => data('DELETE', path)

/** Yield the lines of a stream, decoded, until the server or the signal ends it. */
export async function* lines(path, query, signal) {
  const response = await send('GET', withQuery(path, query), undefined, signal)
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const parts = (rest + value).split('\n')
    rest = parts.pop()
    for (const part of parts) if (part.trim()) yield JSON.parse(part)
  }
}
