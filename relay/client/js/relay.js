// The client of Relay's `live` dialect, for browsers, workers, Node and React Native. No dependencies, no build step.
//
//   Relay          one connection of one user: it reconnects, refreshes the token, and sends requests
//   Subscription   one channel: it outlives connections and resumes from its position
//   Room           the subscription to a chat room, with messages, typing, presence and members
//   Notifications  the subscription to the user's own notifications
//
// Types, units and errors of every method: relay.d.ts. The frames: the page `live` of Relay's handbook.

const DEFAULTS = {
  minDelay: 500,
  maxDelay: 20_000,
  timeout: 10_000,
  pingInterval: 25_000,
}
// A connection that lasts this long in ms ends the growth of the delays.
const STEADY = 10_000
// A connection that ends sooner than this many ms is not replaced at once.
const BRIEF = 1000
// After "try again later" the delay starts as if this many attempts had failed: all clients were told at once.
const SPREAD = 3
// Requests that may wait for answers, and publications that may wait for a slow iterator.
const MAX_REQUESTS = 256
const MAX_QUEUE = 1000
// A typing frame is repeated after this many ms at the earliest; the server forgets one after 6 s.
const TYPING_INTERVAL = 3000
const MIN_REFRESH = 1000
const MAX_REFRESH = 86_400_000
// Close codes after which the same client would only be closed again, because its frames are broken.
const FINAL = [1002, 1003, 1007]
// Reasons of the server for ending a subscription that may be had again at once.
const AGAIN = ['backend_expired', 'publications were lost']
const TEMPORARY = ['disconnected', 'timeout', 'rate_limited', 'internal_error', 'unavailable']
const STATUS = {
  400: 'invalid_request',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not_found',
  409: 'conflict',
  413: 'too_large',
  429: 'rate_limited',
  503: 'unavailable',
}

const now = () => performance.now()

/** A refusal, or a request without an answer. */
export class RelayError extends Error {
  constructor(code, message, { reason, retryAfter, errors } = {}) {
    super(message)
    this.name = 'RelayError'
    this.code = code
    this.reason = reason
    this.retryAfter = retryAfter
    this.errors = errors
  }

  get temporary() {
    return TEMPORARY.includes(this.code)
  }
}

/** Thrown by `getToken`: the user may not connect any more, so the client stops. */
export class Unauthorized extends Error {}

class Emitter {
  constructor() {
    this._listeners = new Map()
  }

  on(event, listener) {
    if (!this._listeners.has(event)) this._listeners.set(event, new Set())
    this._listeners.get(event).add(listener)
    return () => this.off(event, listener)
  }

  off(event, listener) {
    this._listeners.get(event)?.delete(listener)
  }

  _emit(event, value) {
    for (const listener of [...(this._listeners.get(event) ?? [])]) {
      try {
        listener(value)
      } catch (error) {
        // The fault of a listener is reported like any uncaught error, and the other listeners are still called.
        setTimeout(() => {
          throw error
        })
      }
    }
  }
}

export class Relay extends Emitter {
  constructor(url, options = {}) {
    super()
    const parts = /^(?:ws|http)(s?):\/\/([^/?#]+)([^?#]*)$/.exec(url)
    if (!parts) throw new TypeError(`${url} is not the address of a server; use one such as https://relay.example.org`)
    const place = `${parts[1]}://${parts[2]}${parts[3].replace(/(\/v1\/live)?\/*$/, '')}`
    this._url = `ws${place}/v1/live`
    this._http = `http${place}`
    this._options = { ...DEFAULTS, ...options }
    this._WebSocket = options.webSocket ?? globalThis.WebSocket
    if (!this._WebSocket) throw new TypeError('There is no WebSocket here; pass that of the package ws as webSocket')
    this.state = 'disconnected'
    this.userId = null
    this.connectionId = null
    this._subscriptions = new Map()
    this._requests = new Map()
    this._prefix = Math.random().toString(36).slice(2) + Math.random().toString(36).slice(2)
    this._ids = 0
    // A number of the connection: what began under another one is void.
    this._attempt = 0
    this._failures = 0
    this._skew = 0
    this._wake = () => this._woken()
  }

  // -- the connection ------------------------------------------------------------------------------------------------

  connect() {
    if (this.state !== 'disconnected') return
    this._failures = 0
    this._gaveUp = false
    this._reason = 'connect'
    globalThis.addEventListener?.('online', this._wake)
    globalThis.document?.addEventListener('visibilitychange', this._wake)
    this._setState('connecting')
    this._open()
  }

  disconnect() {
    this._stop(1000, 'disconnected by the client')
  }

  ready(timeout = this._options.timeout) {
    return settled(this, ['state'], timeout, () => {
      if (this.state === 'disconnected') throw new RelayError('disconnected', this._why ?? 'connect() was not called.')
      return this.state === 'connected'
    })
  }

  async _open() {
    const attempt = ++this._attempt
    this._waiting = false
    this._authError = null
    this._timer = setTimeout(() => this._lost(1006, 'timeout'), this._options.timeout)
    try {
      const token = await this._token(this._reason)
      if (attempt !== this._attempt) return
      const socket = new this._WebSocket(this._url)
      socket.onopen = () => this._opened(token)
      socket.onmessage = (event) => this._receive(event.data)
      socket.onclose = (event) => this._lost(event.code, event.reason)
      socket.onerror = () => {}
      this._socket = socket
    } catch (error) {
      if (attempt === this._attempt) this._failed(error, () => this._lost(1006, error.message))
    }
  }

  _opened(token) {
    this._heard = now()
    // Before auth, because any frame right after it but a subscribe would begin the broadcasts.
    this._send({ type: 'ping' })
    this._authenticate(token)
    const all = [...this._subscriptions.values()]
    // Broadcasts are held until the first subscribe, so that one goes first.
    for (const one of all) if (one.channel === 'broadcast') one._begin()
    for (const one of all) if (one.channel !== 'broadcast') one._begin()
  }

  _authenticate(token) {
    this._send(token === null ? { type: 'auth' } : { type: 'auth', token })
  }

  _lost(code, reason) {
    const lasted = this.state === 'connected' ? now() - this._since : 0
    if (lasted > STEADY) this._failures = 0
    this._close()
    for (const one of this._subscriptions.values()) one._pause()
    if (FINAL.includes(code) || (code === 1008 && reason === 'disconnected')) return this._stop(code, reason)
    if (code === 1009) this._reject(new RelayError('too_large', 'A message was too large for the server.'))
    let least = this._failures
    let delay = null
    const refused = this._authError
    if (code === 1008 && reason !== 'too many messages' && !refused?.temporary) {
      // The time of an anonymous client may be over: it may have another one.
      if (!this._options.getToken && !lasted) return this._stop(code, refused?.message ?? reason)
      this._reason = 'refused'
      this._credential = undefined
      if (lasted > BRIEF) delay = 0
    } else if (code === 1001 || code === 1008 || code === 1013) {
      least = Math.max(least, SPREAD)
    }
    delay ??= Math.max(this._delay(least), 1000 * (refused?.retryAfter ?? 0))
    this._failures += 1
    this._waiting = true
    this._timer = setTimeout(() => this._open(), delay)
    this._setState('connecting', code, reason, delay)
  }

  _delay(failures) {
    const { minDelay, maxDelay } = this._options
    return Math.min(maxDelay, minDelay + Math.random() * Math.min(maxDelay, minDelay * 2 ** failures))
  }

  // Stops for good, until connect() is called again.
  _stop(code, reason) {
    if (this.state === 'disconnected') return
    globalThis.removeEventListener?.('online', this._wake)
    globalThis.document?.removeEventListener('visibilitychange', this._wake)
    this._close()
    for (const one of this._subscriptions.values()) one._pause()
    this._reject(new RelayError('disconnected', reason))
    this._why = reason
    this._gaveUp = code !== 1000
    this._setState('disconnected', code, reason)
  }

  // Lets go of the connection and of everything that belongs to it.
  _close() {
    this._attempt += 1
    this._waiting = false
    this.connectionId = null
    this._fetching = undefined
    for (const timer of [this._timer, this._pingTimer, this._refreshTimer]) clearTimeout(timer)
    const socket = this._socket
    if (!socket) return
    this._socket = null
    socket.onopen = socket.onmessage = socket.onclose = null
    socket.close()
  }

  _failed(error, otherwise) {
    if (error instanceof Unauthorized) return this._stop(1008, error.message)
    this._emit('error', error)
    otherwise()
  }

  _setState(state, code, reason, retryIn) {
    this.state = state
    this._emit('state', { state, code, reason, retryIn })
  }

  // The network is back, or the page is visible again: timers may have slept.
  _woken() {
    if (globalThis.document?.visibilityState === 'hidden') return
    if (this._waiting) {
      clearTimeout(this._timer)
      this._open()
    } else if (this.state === 'connected') {
      this._heard = Math.min(this._heard, now() - this._options.pingInterval)
      this._watch()
    }
  }

  // Pings a silent server, and gives it up when it stays silent: a page cannot see the pings of WebSocket.
  _watch() {
    clearTimeout(this._pingTimer)
    const { pingInterval, timeout } = this._options
    const silence = now() - this._heard
    if (silence >= pingInterval + timeout) return this._lost(1006, 'the server does not answer')
    if (silence >= pingInterval) this._send({ type: 'ping' })
    this._pingTimer = setTimeout(() => this._watch(), silence >= pingInterval ? timeout : pingInterval - silence)
  }

  // -- the token -----------------------------------------------------------------------------------------------------

  // Returns the token in use, or a fresh one where the reason asks for it. Simultaneous callers share one call.
  async _token(reason) {
    const { getToken } = this._options
    if (!getToken) return null
    const expired = this._expires !== undefined && now() > this._expires
    if (reason === 'connect' && this._credential !== undefined && !expired) return this._credential
    this._fetching ??= Promise.resolve(getToken({ reason })).finally(() => {
      this._fetching = undefined
    })
    this._credential = await this._fetching
    this._expires = undefined
    return this._credential
  }

  // Plans the refresh by the server's clock: 10 s or a tenth of the token's life ahead, never more than half of it.
  _planRefresh(expiresAt) {
    clearTimeout(this._refreshTimer)
    if (!expiresAt) return
    const left = Date.parse(expiresAt) - Date.now() - this._skew
    this._expires = now() + left - MIN_REFRESH
    const ahead = Math.min(left / 2, Math.max(10_000, left / 10)) * (1 + Math.random() / 2)
    this._refreshAfter(Math.min(MAX_REFRESH, Math.max(MIN_REFRESH, left - ahead)))
  }

  _refreshAfter(delay) {
    const attempt = this._attempt
    this._refreshTimer = setTimeout(async () => {
      try {
        const token = await this._token('refresh')
        if (attempt === this._attempt) this._authenticate(token)
      } catch (error) {
        if (attempt === this._attempt) this._failed(error, () => this._refreshAfter(this._delay(SPREAD)))
      }
    }, delay)
  }

  // -- frames --------------------------------------------------------------------------------------------------------

  _send(frame) {
    if (this._socket?.readyState === 1) this._socket.send(JSON.stringify(frame))
  }

  _receive(text) {
    this._heard = now()
    const frame = JSON.parse(text)
    const { type, data, channel } = frame
    const waiting = this._requests.get(data?.requestId)
    if (waiting) {
      delete data.requestId
      if (type === 'error') waiting.reject(new RelayError(data.code, data.message, data))
      else waiting.resolve('offset' in frame ? { ...data, offset: frame.offset } : data)
      if (frame.offset === undefined) return
    }
    // A publication may be of the same type, and has data.
    if (type === 'skipped' && data === undefined) this._find(channel)?._skip(frame.offset)
    else if (frame.offset === undefined && isSignal(frame)) SIGNALS[type](this, data, this._find(channel))
    else if (channel !== undefined) this._find(channel)?._take(frame)
    else if (ANSWERS[type]) ANSWERS[type](this, data)
  }

  _find(channel) {
    if (channel === `user:${this.userId}`) channel = this._subscriptions.has(channel) ? channel : 'notifications'
    return this._subscriptions.get(channel)
  }

  _authenticated(data) {
    if (this.userId !== null && this.userId !== data.userId) {
      this.userId = null
      for (const one of this._subscriptions.values()) one.position = null
      return this._stop(1008, 'The token is of another user than before.')
    }
    this.userId = data.userId
    this.connectionId = data.connectionId ?? null
    this._planRefresh(data.expiresAt)
    this._reason = 'connect'
    if (this.state === 'connected') return
    clearTimeout(this._timer)
    this._since = now()
    this._watch()
    // Those that were added after the burst, and requests that wait; a listener sends its own.
    for (const one of this._subscriptions.values()) if (one._attempt !== this._attempt) one._begin()
    for (const request of this._requests.values()) this._send(request.frame)
    this._setState('connected')
  }

  // -- requests ------------------------------------------------------------------------------------------------------

  // Sends a frame until it is answered, over reconnects: one with the same id counts once.
  _request(frame, id = this._id()) {
    const same = this._requests.get(id)
    if (same) return same.promise
    if (this.state === 'disconnected') return Promise.reject(new RelayError('disconnected', 'There is no connection.'))
    if (this._requests.size >= MAX_REQUESTS) {
      return Promise.reject(new RelayError('rate_limited', `${MAX_REQUESTS} requests wait for their answers.`))
    }
    const request = { frame: { ...frame, requestId: id } }
    request.promise = new Promise((resolve, reject) => {
      const settle = (settled) => (value) => {
        clearTimeout(timer)
        this._requests.delete(id)
        settled(value)
      }
      const late = () => request.reject(new RelayError('timeout', 'The server did not answer in time.'))
      const timer = setTimeout(late, this._options.timeout)
      request.resolve = settle(resolve)
      request.reject = settle(reject)
    })
    this._requests.set(id, request)
    if (this.state === 'connected') this._send(request.frame)
    return request.promise
  }

  _reject(error) {
    for (const request of [...this._requests.values()]) request.reject(error)
  }

  _id() {
    return `${this._prefix}-${(this._ids += 1)}`
  }

  async publish(channel, data, { type, echo, id = this._id() } = {}) {
    const frame = { type: 'publish', channel, data, event: type, echo, clientMessageId: id }
    return place(await this._request(frame, id))
  }

  async history(channel, { limit, before, since } = {}) {
    const answer = await this._request({ type: 'history', channel, limit, before, since })
    const publications = answer.publications.map((one) => ({ channel, ...one }))
    return { publications, position: place(answer) }
  }

  async presence(channel) {
    const [kind, id] = split(channel)
    const { users, count = users.length } = await this._request({
      type: 'presence',
      ...(kind === 'chatroom' ? { chatroomId: id } : { channel }),
    })
    return { count, users }
  }

  // -- subscriptions -------------------------------------------------------------------------------------------------

  subscribe(channel, options = {}) {
    const [kind, id] = split(channel)
    const name = kind === 'market' ? `market:${id.toUpperCase()}` : channel
    let subscription = this._subscriptions.get(name)
    if (!subscription) {
      const Kind = { chatroom: Room, user: Notifications, notifications: Notifications }[kind] ?? Subscription
      subscription = new Kind(this, name, options)
      this._subscriptions.set(name, subscription)
      if (this._attempt === 0) this.connect()
      else if (this.state === 'connected') subscription._begin()
    }
    subscription._listen(options)
    return subscription
  }

  subscriptions() {
    return [...this._subscriptions.values()]
  }

  room(id, options) {
    return this.subscribe(`chatroom:${id}`, options)
  }

  notifications(options) {
    return this.subscribe('notifications', options)
  }

  market(symbol, options) {
    return this.subscribe(`market:${symbol}`, options)
  }

  // -- REST ----------------------------------------------------------------------------------------------------------

  rooms(query) {
    return this._list('/v1/chatrooms', query)
  }

  async createRoom(fields) {
    return (await this.rest('POST', '/v1/chatrooms', fields)).data
  }

  async _list(path, query = {}) {
    const pairs = Object.entries(query).filter(([, value]) => value !== undefined)
    const text = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&')
    const { data, pagination } = await this.rest('GET', text ? `${path}?${text}` : path)
    return { items: data, pagination }
  }

  async rest(method, path, body) {
    let answered = await this._fetch(method, path, body, await this._token('connect'))
    if (answered.response.status === 401 && this._options.getToken) {
      answered = await this._fetch(method, path, body, await this._token('refused'))
    }
    const { response, answer } = answered
    if (response.ok && answer) return answer
    const message = answer?.message ?? `The server answered ${response.status}, but not like Relay.`
    throw new RelayError(STATUS[response.status] ?? 'internal_error', message, {
      reason: answer?.reason,
      retryAfter: Number(response.headers.get('Retry-After')) || undefined,
      errors: answer?.errors,
    })
  }

  async _fetch(method, path, body, token) {
    const abort = new AbortController()
    const timer = setTimeout(() => abort.abort(), this._options.timeout)
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` }
    if (body !== undefined) headers['Content-Type'] = 'application/json'
    try {
      const options = { method, headers, body: JSON.stringify(body), signal: abort.signal }
      const response = await fetch(this._http + path, options)
      return { response, answer: parsed(await response.text()) }
    } catch (error) {
      const code = abort.signal.aborted ? 'timeout' : 'disconnected'
      throw new RelayError(code, `The server cannot be reached: ${error.message}`)
    } finally {
      clearTimeout(timer)
    }
  }
}

export class Subscription extends Emitter {
  constructor(relay, channel, options) {
    super()
    this.relay = relay
    this.channel = channel
    this.state = 'subscribing'
    this.position = options.since ?? null
    this._options = options
    this._kind = split(channel)[0]
  }

  _listen({ onPublication, onSubscribed, signal }) {
    if (onPublication) this.on('publication', onPublication)
    if (onSubscribed) this.on('subscribed', onSubscribed)
    if (signal?.aborted) this.unsubscribe()
    else signal?.addEventListener('abort', () => this.unsubscribe())
  }

  // The fields that name the channel in a frame.
  _target() {
    const [kind, id] = split(this.channel)
    if (kind === 'chatroom') return { channel: kind, chatroomId: id }
    if (kind === 'user') return { channel: 'notifications', userId: id }
    if (kind === 'community') return { channel: kind, communityId: id }
    if (kind === 'market') return { channel: kind, symbols: [id] }
    return { channel: this.channel }
  }

  async _begin() {
    const { relay } = this
    if (this.state === 'unsubscribed') return
    const { last, getToken } = this._options
    const attempt = relay._attempt
    this._attempt = attempt
    this._request = relay._id()
    const frame = { type: 'subscribe', ...this._target(), last, requestId: this._request }
    this._resumes = this.position !== null && this._kind !== 'market'
    if (this._resumes) frame.since = this.position
    if (getToken) {
      try {
        frame.token = await getToken({ channel: this.channel })
      } catch (error) {
        if (error instanceof Unauthorized) return this._end('unauthorized', error.message)
        relay._emit('error', error)
        return this._again(attempt)
      }
      if (attempt !== relay._attempt || this.state !== 'subscribing') return
    }
    relay._send(frame)
  }

  _again(attempt, retryAfter = 0) {
    setTimeout(
      () => {
        if (attempt === this.relay._attempt && this.state === 'subscribing') this._begin()
      },
      Math.max(this.relay._delay(0), 1000 * retryAfter),
    )
  }

  _pause() {
    this.state = 'subscribing'
  }

  _subscribed(data) {
    const { offset, epoch } = data.positions ? data.positions[split(this.channel)[1]] : data
    const recovered = data.recovered === true
    // Publications up to this offset may follow: those that were missed, or the last price.
    const follow = recovered || data.positions
    const known = this.position && this.position.epoch === epoch ? this.position.offset : 0
    this.position = epoch === undefined ? null : { offset: follow ? known : offset, epoch }
    this.state = 'subscribed'
    const event = { channel: this.channel, position: this.position, wasRecovering: this._resumes, recovered }
    this._emit('subscribed', event)
  }

  _refused({ code, message, reason, retryAfter }) {
    // Before that the token was refused, and the connection is about to end with the reason.
    if (code === 'unauthorized' && this.relay.state !== 'connected') return
    const expired = reason === 'token_expired' && this._options.getToken
    // The server ended it while it began. The next refusal names the right that is missing, if one is.
    const again = expired || reason === 'revoked'
    if (again || TEMPORARY.includes(code)) this._again(this.relay._attempt, retryAfter)
    else this._end(code, message, reason)
  }

  _take({ type, data, offset, publisher }) {
    if (this.state !== 'subscribed') return
    if (offset && this.position && offset <= this.position.offset) return
    const publication = { channel: this.channel, type, data }
    if (offset) publication.offset = offset
    if (publisher) publication.publisher = publisher
    this._publish(publication)
    this._skip(offset)
  }

  _publish(publication) {
    this._emit('publication', publication)
  }

  _skip(offset) {
    const position = this.position
    if (position && offset > position.offset) this.position = { ...position, offset }
  }

  _end(code, message, reason) {
    if (this.state === 'unsubscribed') return
    this.state = 'unsubscribed'
    this._why = new RelayError(code, message, { reason })
    this.relay._subscriptions.delete(this.channel)
    this._emit('unsubscribed', { channel: this.channel, code, reason: reason ?? message })
  }

  unsubscribe() {
    if (this.state === 'unsubscribed') return
    this.relay._send({ type: 'unsubscribe', ...this._target() })
    this._end('unsubscribed', 'unsubscribed by the client')
  }

  ready(timeout = this.relay._options.timeout) {
    const check = () => {
      if (this.state === 'unsubscribed') throw this._why
      return this.state === 'subscribed'
    }
    return settled(this, ['subscribed', 'unsubscribed'], timeout, check)
  }

  publish(data, options) {
    return this.relay.publish(this.channel, data, options)
  }

  history(options) {
    return this.relay.history(this.channel, options)
  }

  presence() {
    return this.relay.presence(this.channel)
  }

  [Symbol.asyncIterator]() {
    const queue = []
    let ended = null
    let wake = null
    const offs = [
      this.on('publication', (publication) => {
        if (queue.length < MAX_QUEUE) queue.push(publication)
        else end(new RelayError('too_slow', `${MAX_QUEUE} publications wait for the iterator.`))
        wake?.()
      }),
      this.on('unsubscribed', ({ code, reason }) => {
        end(code === 'unsubscribed' ? null : new RelayError(code, reason))
      }),
      this.relay.on('state', ({ state, code, reason }) => {
        if (state === 'disconnected') end(code === 1000 ? null : new RelayError('disconnected', reason))
      }),
    ]
    const end = (error) => {
      ended ??= { error }
      for (const off of offs) off()
      wake?.()
    }
    // The end may have come before the loop.
    if (this.state === 'unsubscribed') end(this._why.code === 'unsubscribed' ? null : this._why)
    else if (this.relay._gaveUp) end(new RelayError('disconnected', this.relay._why))
    return {
      next: async () => {
        while (queue.length === 0 && !ended) {
          await new Promise((resolve) => {
            wake = resolve
          })
        }
        if (queue.length > 0) return { done: false, value: queue.shift() }
        if (ended.error) throw ended.error
        return { done: true, value: undefined }
      },
      return: async () => {
        end(null)
        return { done: true, value: undefined }
      },
    }
  }
}

export class Room extends Subscription {
  constructor(relay, channel, options) {
    super(relay, channel, options)
    this.id = split(channel)[1]
    this._path = `/v1/chatrooms/${encodeURIComponent(this.id)}`
    this._typed = -Infinity
  }

  _publish(publication) {
    super._publish(publication)
    const { type, data, offset } = publication
    if (type === 'chat:message') this._emit('message', { ...data, offset })
  }

  send(message, { id = this.relay._id() } = {}) {
    this.typing(false)
    return this.relay._request({ type: 'chat:send', chatroomId: this.id, message, clientMessageId: id }, id)
  }

  typing(isTyping = true) {
    if (isTyping ? now() - this._typed < TYPING_INTERVAL : this._typed === -Infinity) return
    this._typed = isTyping ? now() : -Infinity
    this.relay._send({ type: 'chat:typing', chatroomId: this.id, isTyping })
  }

  messages(query) {
    return this.relay._list(`${this._path}/messages`, query)
  }

  members(query) {
    return this.relay._list(`${this._path}/members`, query)
  }

  info() {
    return this._rest('GET', '')
  }

  join() {
    return this._rest('POST', '/join')
  }

  leave() {
    return this._rest('POST', '/leave')
  }

  update(fields) {
    return this._rest('PUT', '', fields)
  }

  async delete() {
    await this._rest('DELETE', '')
  }

  addMember(userId) {
    return this._rest('POST', '/members', { userId })
  }

  async removeMember(userId) {
    // A browser takes a path that ends in one of these for that of the room, and would delete it (WHATWG URL, 4.4).
    if (userId === '.' || userId === '..') {
      throw new RelayError('invalid_request', `A URL cannot name the user ${userId}`)
    }
    return this._rest('DELETE', `/members/${encodeURIComponent(userId)}`)
  }

  async _rest(method, path, body) {
    return (await this.relay.rest(method, this._path + path, body)).data
  }
}

export class Notifications extends Subscription {
  list(query) {
    return this.relay._list('/v1/notifications', query)
  }

  async read(id) {
    return (await this.relay.rest('PUT', `/v1/notifications/${encodeURIComponent(id)}/read`)).data
  }

  async readAll() {
    return (await this.relay.rest('PUT', '/v1/notifications/read-all')).data.updated
  }
}

// Frames about a channel that are not publications: nothing repeats them.
const SIGNALS = {
  __proto__: null,
  'chat:typing': (relay, data, room) => room?._emit('typing', data),
  'chatroom:deleted': (relay, data, room) => room?._emit('deleted', data),
  'user:online': (relay, data) => relay._emit('online', data),
  'user:offline': (relay, data) => relay._emit('offline', data),
  'presence:join': (relay, data, one) => one?._emit('join', data),
  'presence:leave': (relay, data, one) => one?._emit('leave', data),
}

// On channels of namespaces the publisher chooses the type, so that only the server's own two are signals there, and
// only without a publisher: no client can announce users in the place of the server.
function isSignal({ type, channel, publisher }) {
  return type in SIGNALS && publisher === undefined && (/^chatroom:/.test(channel) || /^presence:/.test(type))
}

// Answers, and what the server says by itself about the connection.
const ANSWERS = {
  __proto__: null,
  'auth:success': (relay, data) => relay._authenticated(data),
  'auth:error': refuseToken,
  pong: (relay, data) => {
    relay._skew = Date.parse(data.timestamp) - Date.now()
  },
  subscribed: (relay, data) => asked(relay, data)?._subscribed(data),
  unsubscribed: (relay, data) => {
    if (data.reason === undefined) return
    const one = relay._find(named(data))
    if (one?.state !== 'subscribed') return
    if (AGAIN.includes(data.reason) || (data.reason === 'token_expired' && one._options.getToken)) {
      one._pause()
      one._begin()
    } else {
      one._end('forbidden', 'The server ended the subscription.', data.reason)
    }
  },
  error: (relay, data) => {
    const one = asked(relay, data)
    if (one) one._refused(data)
    else if (data.request === 'auth' && relay.state !== 'connected') {
      refuseToken(relay, data)
      relay._lost(1008, data.message)
    } else relay._emit('error', new RelayError(data.code, data.message, data))
  },
}

// The server closes the connection next, with 1008.
function refuseToken(relay, data) {
  relay._authError = new RelayError(data.code, data.message, data)
  relay._emit('error', relay._authError)
}

// The subscription whose latest subscribe is answered here.
function asked(relay, data) {
  if (data.requestId === undefined) return
  for (const one of relay._subscriptions.values()) if (one._request === data.requestId) return one
}

// The name of the channel that the fields of an answer name.
function named({ channel, chatroomId, userId, communityId, symbols }) {
  if (channel === 'notifications') return `user:${userId}`
  const id = chatroomId ?? communityId ?? symbols?.[0]
  return id === undefined ? channel : `${channel}:${id}`
}

// The value of an answer; null, if a proxy answered with something else.
function parsed(text) {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

function place({ offset, epoch }) {
  return epoch ? { offset, epoch } : null
}

function split(channel) {
  const colon = channel.indexOf(':')
  return colon < 0 ? [channel, ''] : [channel.slice(0, colon), channel.slice(colon + 1)]
}

// Resolves as soon as the check is true, and rejects with what it throws; looked at now and after each of the events.
function settled(emitter, events, timeout, check) {
  return new Promise((resolve, reject) => {
    const finish = (settle, value) => {
      clearTimeout(timer)
      for (const off of offs) off()
      settle(value)
    }
    const look = () => {
      try {
        if (check()) finish(resolve)
      } catch (error) {
        finish(reject, error)
      }
    }
    const late = () => finish(reject, new RelayError('timeout', 'The server did not answer in time.'))
    const timer = setTimeout(late, timeout)
    const offs = events.map((event) => emitter.on(event, look))
    look()
  })
}
