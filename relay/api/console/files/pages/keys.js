// API keys: created, moved to a tier and revoked by admins; a secret is shown once.
import { get, post, remove } from '/console/api.js'
import { button, code, empty, field, h, select } from '/console/dom.js'
import { ask, show as open } from '/console/dialog.js'
import * as format from '/console/format.js'
import { List } from '/console/list.js'
import { attempt, notice } from '/console/notice.js'

export const title = 'Keys'
const SCOPES = [
  ['connect', 'Socket.IO'],
  ['publish', 'publish as a backend'],
  ['console', 'read in the console'],
  ['console:write', 'act in the console'],
  ['admin', 'everything'],
]

export async function show(root, { rights, signal }) {
  const load = async (cursor) => {
    const page = await get('/v1/admin/keys', { cursor, limit: 50 }, signal)
    return { entries: page.keys, cursor: page.cursor }
  }
  const list = new List(
    'API keys, the oldest first',
    columns(rights, () => list.refresh()),
    load,
    () =>
      empty(
        'There is no API key yet.',
        'Backends publish with one. Create it here, or run ',
        code('relay keys create --user USER --scope publish'),
        '.',
      ),
  )
  if (rights.admin)
    root.append(
      h(
        'p',
        {},
        button('New key', () => create(() => list.refresh()), { class: 'primary' }),
      ),
    )
  else root.append(h('p', { class: 'faint' }, 'Only an admin creates and revokes keys, because keys give rights.'))
  root.append(list.element)
  await list.refresh()
}

function columns(rights, changed) {
  const shown = [
    ['Key', (key) => code(key.hint)],
    ['User', (key) => h('strong', {}, key.userId)],
    ['Scopes', (key) => key.scopes.join(', ')],
    ['Tier', (key) => key.tier],
    ['Created', (key) => format.ago(key.createdAt)],
    ['State', (key) => (key.revokedAt ? `revoked ${format.ago(key.revokedAt)}` : 'valid')],
  ]
  if (rights.admin) {
    shown.push([
      '',
      (key) =>
        h(
          'span',
          { class: 'actions' },
          key.revokedAt
            ? null
            : [
                button(key.tier === 'pro' ? 'Move to free' : 'Move to pro', () => move(key, changed)),
                button('Revoke', () => revoke(key, changed), { class: 'danger' }),
              ],
        ),
    ])
  }
  return shown
}

async function create(created) {
  const scopes = h(
    'fieldset',
    {},
    h('legend', {}, 'Scopes'),
    SCOPES.map(([scope, meaning]) =>
      h(
        'label',
        {},
        h('input', { type: 'checkbox', name: 'scopes', value: scope, checked: scope === 'publish' }),
        ` ${scope}: ${meaning}`,
      ),
    ),
  )
  const given = await ask(
    'New key',
    'Create',
    field('User', h('input', { id: 'key-user', name: 'user', required: true })),
    scopes,
    field(
      'Tier',
      select({ id: 'key-tier', name: 'tier' }, [
        ['free', 'free'],
        ['pro', 'pro: for Socket.IO'],
      ]),
    ),
  )
  if (given === null) return
  const body = { user: given.get('user'), scopes: given.getAll('scopes'), tier: given.get('tier') }
  const key = await attempt(() => post('/v1/admin/keys', body))
  if (!key) return
  created()
  const copy = button('Copy', () =>
    navigator.clipboard.writeText(key.secret).then(
      () => notice('Copied.'),
      () => notice('Copy it by hand.', 'failed'),
    ),
  )
  open(
    'The new key',
    h('p', {}, 'Keep it now: Relay stores its hash alone, and does not show it again.'),
    h('p', { class: 'secret' }, h('code', { id: 'secret' }, key.secret), ' ', copy),
  )
}

async function revoke(key, changed) {
  const given = await ask(`Revoke ${key.hint}?`, 'Revoke', h('p', {}, 'For good. Its connections end within seconds.'))
  if (given === null) return
  await attempt(() => remove(`/v1/admin/keys/${encodeURIComponent(key.id)}`), 'Revoked.')
  changed()
}

async function move(key, changed) {
  const tier = key.tier === 'pro' ? 'free' : 'pro'
  await attempt(
    () => post(`/v1/admin/keys/${encodeURIComponent(key.id)}/tier`, { tier }),
    `The key has the tier ${tier}.`,
  )
  changed()
}
