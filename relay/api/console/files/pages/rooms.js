// Rooms and their members.
import { get, post, remove } from '/console/api.js'
import { button, empty, field, h, select, values } from '/console/dom.js'
import { ask } from '/console/dialog.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt } from '/console/notice.js'

export const title = 'Rooms'
const TYPES = ['public', 'group', 'private']

const path = (room) => `/v1/admin/rooms/${encodeURIComponent(room)}/members`

export async function show(root, context) {
  if (context.argument) await one(root, context)
  else await all(root, context)
}

async function all(root, { rights, signal }) {
  const type = select({ id: 'type', name: 'type' }, [['', 'all'], ...TYPES])
  const filter = h('form', { class: 'filter' }, field('Type', type))
  const load = async (cursor) => {
    const page = await get('/v1/admin/rooms', { ...values(filter), cursor, limit: 50 }, signal)
    return { entries: page.rooms, cursor: page.cursor, total: page.total }
  }
  const columns = [
    ['Room', (room) => h('a', { href: `#/rooms/${encodeURIComponent(room.id)}` }, room.name)],
    ['Type', (room) => room.type],
    ['Members', (room) => format.count(room.members)],
    ['Present', (room) => format.count(room.present)],
    ['Messages', (room) => format.count(room.messages)],
    ['Created', (room) => `${format.ago(room.createdAt)} by ${room.createdBy}`],
  ]
  const list = new List('Rooms, the newest first', columns, load, () =>
    empty(
      'There is no such room.',
      'Create one here, or let a backend do so with ',
      h('a', { href: '/docs/live#rest' }, 'POST /v1/chatrooms'),
      '.',
    ),
  )
  type.addEventListener('change', () => list.refresh())
  if (rights.acts) filter.append(button('New room', () => create(), { class: 'primary' }))
  root.append(filter, list.element)
  await list.refresh()
}

async function create() {
  const given = await ask(
    'New room',
    'Create',
    field('Name', h('input', { id: 'room-name', name: 'name', required: true, maxlength: 100 })),
    field(
      'Type',
      select({ id: 'room-type', name: 'type' }, [
        ['public', 'public: every user reads and joins'],
        ['group', 'group: every user may join, members read'],
        ['private', 'private: seen by its members alone'],
      ]),
    ),
  )
  if (given === null) return
  const room = await attempt(() => post('/v1/admin/rooms', Object.fromEntries(given)), 'Created.')
  if (room) location.hash = `#/rooms/${encodeURIComponent(room.id)}`
}

async function one(root, { argument, rights, signal }) {
  const name = h('h2', {}, argument)
  const about = h('p', { class: 'faint' })
  const load = async (cursor) => {
    const page = await get(path(argument), { cursor, limit: 50 }, signal)
    name.textContent = page.room.name
    about.textContent = `${page.room.type} room ${argument}, created by ${page.room.createdBy}`
    return { entries: page.members, cursor: page.cursor, total: page.total }
  }
  const columns = [
    ['User', (member) => h('strong', {}, member.userId)],
    ['Name', (member) => [member.firstName, member.lastName].filter(Boolean).join(' ') || '–'],
    ['Joined', (member) => format.ago(member.joinedAt)],
  ]
  if (rights.acts) {
    columns.push([
      '',
      (member) =>
        h(
          'span',
          { class: 'actions' },
          button('Remove', () => leave(member), { class: 'danger' }),
        ),
    ])
  }
  const list = new List('Members, in the order of joining', columns, load, () =>
    empty('The room has no member.', 'Add a user by its id, even one that has never connected.'),
  )
  async function leave({ userId }) {
    const given = await ask(
      `Remove ${userId}?`,
      'Remove',
      h('p', {}, 'The user stays away from a room that is not public.'),
    )
    if (given === null) return
    await attempt(() => remove(`${path(argument)}/${encodeURIComponent(userId)}`), 'Removed.')
    await list.refresh()
  }
  const channel = encodeURIComponent(`chatroom:${argument}`)
  root.append(
    name,
    about,
    h(
      'p',
      { class: 'actions' },
      h('a', { href: '#/rooms' }, 'All rooms'),
      h('a', { href: `#/channels/${channel}` }, 'Messages'),
      h('a', { href: `#/tail/${channel}` }, 'Tail'),
    ),
  )
  if (rights.acts) root.append(adding(argument, () => list.refresh()))
  root.append(h('h3', {}, 'Members'), list.element)
  await list.refresh()
}

function adding(room, added) {
  const form = h(
    'form',
    { class: 'filter' },
    field('User', h('input', { id: 'member', name: 'user', required: true })),
    button('Add', () => {}, { type: 'submit' }),
  )
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    if (await attempt(() => post(path(room), values(form)), 'Added.')) form.reset()
    added()
  })
  return form
}
