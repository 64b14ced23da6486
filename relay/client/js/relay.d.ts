/** The client of Relay. All times are in milliseconds, but for `retryAfter`, which is in seconds. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** A place in a channel: everything up to and with `offset` is behind it. */
export interface Position {
  offset: number
  epoch: string
}

export interface Publisher {
  user?: string
  connection?: string
  info?: Json
}

export interface Publication<T = Json> {
  channel: string
  type: string
  data: T
  /** Absent on channels without history. */
  offset?: number
  /** Set if a client published it, and absent if a backend did. */
  publisher?: Publisher
  /** Set in the answer to `history`. */
  timestamp?: string
}

export interface Present {
  userId: string
  firstName?: string | null
  lastName?: string | null
  avatar?: string | null
  info?: Json
  connections?: number
}

export type State = 'disconnected' | 'connecting' | 'connected'

export interface StateEvent {
  state: State
  /** The close code, if a connection was lost. */
  code?: number
  reason?: string
  /** The delay until the next attempt. */
  retryIn?: number
}

export interface Options {
  /**
   * Returns the user's token (JWT); null connects without one. The client keeps the token until it expires or is
   * refused. Throw `Unauthorized` to stop; after any other error the client tries again later.
   *
   * The reason is `connect` before a connection or a REST request, `refresh` before the token of an open connection
   * expires, and `refused` after the server refused the last one.
   */
  getToken?: (context: { reason: 'connect' | 'refresh' | 'refused' }) => Promise<string | null> | string | null
  /** The least delay before a new connection. Default: 500. */
  minDelay?: number
  /** The greatest delay before a new connection. Default: 20,000. */
  maxDelay?: number
  /** How long connecting may take, and each request with all its repetitions. Default: 10,000. */
  timeout?: number
  /** After this long without a frame the client sends a ping. Default: 25,000. */
  pingInterval?: number
  /** The class of WebSockets. Default: the global one; Node 20 needs that of the package `ws`. */
  webSocket?: new (url: string) => unknown
}

/** A refusal of the server, or a request that got no answer. */
export class RelayError extends Error {
  /**
   * One of the server's codes (`invalid_request`, `unauthorized`, `forbidden`, `not_found`, `rate_limited`,
   * `internal_error`, `conflict`, `too_large`, `unavailable`), or the client's own: `disconnected`, `timeout`,
   * `too_slow`, `unsubscribed`.
   */
  readonly code: string
  /** The server's finer reason, if it gave one. */
  readonly reason?: string
  /** Seconds to wait before the next try. */
  readonly retryAfter?: number
  /** The fields that are wrong, if REST refused a body. */
  readonly errors?: { field: string; message: string }[]
  /** Whether the same request may succeed later. */
  readonly temporary: boolean
  constructor(code: string, message: string, more?: { reason?: string; retryAfter?: number; errors?: unknown })
}

/** Throw it in `getToken`: the user may not connect any more, and the client stops. */
export class Unauthorized extends Error {}

export interface PublishOptions {
  /** The type of the publication. Default: that of the channel's namespace. */
  type?: string
  /** Whether this connection gets the publication, too. Default: true. */
  echo?: boolean
  /** Two publications with one id count once. Default: a new one for each call. */
  id?: string
}

export interface HistoryOptions {
  limit?: number
  /** Publications before this offset, the newest first. */
  before?: number
  /** Publications after this position, the oldest first. */
  since?: Position
}

export interface History<T = Json> {
  publications: Publication<T>[]
  /** Null on a channel without history. */
  position: Position | null
}

export interface SubscribeOptions<T = Json> {
  /** The position to resume from, such as one that was kept over a reload. */
  since?: Position
  /** How many of the last publications to get first. For namespaces of your own. */
  last?: number
  /** Returns a subscription token. Throw `Unauthorized` to give the subscription up. */
  getToken?: (context: { channel: string }) => Promise<string> | string
  onPublication?: (publication: Publication<T>) => void
  onSubscribed?: (event: SubscribedEvent) => void
  /** Ends the subscription when it is aborted. */
  signal?: AbortSignal
}

export interface SubscribedEvent {
  channel: string
  position: Position | null
  /** Whether the client asked to resume. */
  wasRecovering: boolean
  /** Whether nothing was missed. If `wasRecovering` and not `recovered`, load your state again. */
  recovered: boolean
}

export interface UnsubscribedEvent {
  channel: string
  code: string
  reason: string
}

export interface SubscriptionEvents<T = Json> {
  publication: Publication<T>
  subscribed: SubscribedEvent
  /** The end: the client, the server or a refusal ended the subscription. */
  unsubscribed: UnsubscribedEvent
  join: Present
  leave: Present
}

declare class Emitter<Events> {
  /** Calls the listener with each event, synchronously. Returns a function that removes the listener. */
  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void
  off<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): void
}

/** One channel. It outlives connections and resumes after each from its position. Made by `Relay`. */
export class Subscription<T = Json, Events = SubscriptionEvents<T>>
  extends Emitter<Events>
  implements AsyncIterable<Publication<T>>
{
  protected constructor()
  readonly relay: Relay
  readonly channel: string
  readonly state: 'subscribing' | 'subscribed' | 'unsubscribed'
  /** Moves after the listeners of a publication returned. */
  readonly position: Position | null
  /** Resolves when the channel is subscribed to. Rejects with `RelayError` if it is refused, or after `timeout`. */
  ready(timeout?: number): Promise<void>
  /** Ends the subscription. `Relay.subscribe` makes a new one. */
  unsubscribe(): void
  publish(data: Json, options?: PublishOptions): Promise<Position | null>
  history(options?: HistoryOptions): Promise<History<T>>
  presence(): Promise<{ count: number; users: Present[] }>
  /**
   * Publications from now on. The loop ends with the subscription and with `Relay.disconnect`, and throws `RelayError` if
   * the subscription was refused or the client gave up. At most 1,000 publications wait for a slow loop; one more ends it
   * with `too_slow`.
   */
  [Symbol.asyncIterator](): AsyncIterator<Publication<T>>
}

export interface Message {
  chatroomId: string
  messageId: string
  userId: string
  message: string
  timestamp: string
  offset?: number
  clientMessageId?: string
}

export interface StoredMessage {
  id: string
  chatroomId: string
  userId: string
  user?: { firstName: string | null; lastName: string | null; avatar: string | null } | null
  message: string
  createdAt: string
}

export interface RoomInfo {
  id: string
  name: string
  description: string | null
  type: 'public' | 'group' | 'private'
  memberCount: number
  activeNow: number
  lastMessageAt: string | null
  createdBy: string
  createdAt: string
}

export interface RoomFields {
  name: string
  description?: string | null
  type?: 'public' | 'group' | 'private'
  /** For admins only. */
  id?: string
}

export interface RoomMember {
  userId: string
  firstName: string | null
  lastName: string | null
  avatar: string | null
  joinedAt: string
}

export interface Page {
  page?: number
  limit?: number
}

export interface List<T> {
  items: T[]
  pagination?: { page: number; limit: number; total: number; pages: number }
}

export interface RoomEvents extends SubscriptionEvents {
  message: Message
  typing: { chatroomId: string; userId: string; isTyping: boolean }
  deleted: { chatroomId: string }
}

/** The subscription to a chat room. */
export class Room extends Subscription<Json, RoomEvents> {
  readonly id: string
  /** Sends a message. Resolves once it is committed. Two messages with one `id` count once, for 300 seconds. */
  send(message: string, options?: { id?: string }): Promise<Message>
  /** Tells the others that the user types. Call it at each key: it sends a frame every 3 s at most. */
  typing(isTyping?: boolean): void
  messages(query?: Page & { before?: string }): Promise<List<StoredMessage>>
  members(query?: Page): Promise<List<RoomMember>>
  info(): Promise<RoomInfo>
  join(): Promise<RoomInfo>
  leave(): Promise<RoomInfo>
  update(fields: Partial<RoomFields>): Promise<RoomInfo>
  delete(): Promise<void>
  addMember(userId: string): Promise<RoomInfo>
  removeMember(userId: string): Promise<RoomInfo>
}

export interface Notification {
  id: string
  title: string
  message: string
  priority: string
  [field: string]: Json
}

export interface StoredNotification extends Notification {
  read: boolean
  createdAt: string
}

/** The subscription to the user's own notifications. */
export class Notifications extends Subscription<Notification> {
  list(query?: Page): Promise<List<StoredNotification>>
  read(id: string): Promise<StoredNotification>
  /** Returns how many were unread. */
  readAll(): Promise<number>
}

export interface Price {
  symbol: string
  price: number
  [field: string]: Json
}

export interface RelayEvents {
  state: StateEvent
  /** For diagnosis: a refused token, a refused frame that was not a request, an error of `getToken`. */
  error: Error
  /** A user came into one of the rooms that this connection is subscribed to. */
  online: { userId: string; status: 'online' }
  offline: { userId: string; status: 'offline' }
}

/** One connection of one user. */
export class Relay extends Emitter<RelayEvents> {
  /** `url`: the address of the server, such as `https://relay.example.org`. */
  constructor(url: string, options?: Options)
  readonly state: State
  readonly userId: string | null
  /** The id of this connection for `exclude` of your backend, if the server tells it. */
  readonly connectionId: string | null
  /** Connects, and reconnects until `disconnect`. The first `subscribe` implies it. */
  connect(): void
  /** Disconnects. Subscriptions stay and come back with `connect`; waiting requests are rejected. */
  disconnect(): void
  ready(timeout?: number): Promise<void>
  /** Subscribes to a channel by its full name. A second call returns the same object. */
  subscribe(channel: `chatroom:${string}`, options?: SubscribeOptions): Room
  subscribe(channel: 'notifications' | `user:${string}`, options?: SubscribeOptions<Notification>): Notifications
  subscribe<T = Json>(channel: string, options?: SubscribeOptions<T>): Subscription<T>
  subscriptions(): Subscription<unknown>[]
  room(id: string, options?: SubscribeOptions): Room
  notifications(options?: SubscribeOptions<Notification>): Notifications
  market(symbol: string, options?: SubscribeOptions<Price>): Subscription<Price>
  /** Resolves with its position once the publication is committed or delivered; null on a channel without history. */
  publish(channel: string, data: Json, options?: PublishOptions): Promise<Position | null>
  history<T = Json>(channel: string, options?: HistoryOptions): Promise<History<T>>
  presence(channel: string): Promise<{ count: number; users: Present[] }>
  rooms(query?: Page & { type?: string }): Promise<List<RoomInfo>>
  createRoom(fields: RoomFields): Promise<RoomInfo>
  /** Calls a REST route of the server with the user's token. Returns the whole body of the answer. */
  rest(method: string, path: string, body?: unknown): Promise<any>
}
