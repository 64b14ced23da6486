// The session: signs in with a link or a key, knows the rights of the person, and signs out.
import { get, post, prove, remove } from '/console/api.js'
import { button, code, field, h } from '/console/dom.js'

const PATH = '/console/session'

/** Return the session of this browser, after a one-time link in the address was used; null without one. */
export async function restore() {
  const link = new URLSearchParams(location.hash.slice(1)).get('link')
  if (link === null) return get(PATH).catch(() => null)
  history.replaceState(null, '', '/console') // so that the link is in no history
  return post(PATH, { link })
}

/** End the session. */
export async function end() {
  await remove(PATH).catch(() => {})
  prove(null)
}

/** Show the form to sign in. `signedIn` is called with the session. */
export function form(main, signedIn, problem = '') {
  const key = h('input', {
    id: 'key',
    name: 'key',
    type: 'password',
    autocomplete: 'off',
    required: true,
    spellcheck: 'false',
  })
  const alert = h('p', { class: 'problem', role: 'alert' }, problem)
  const onsubmit = async (event) => {
    event.preventDefault()
    alert.textContent = ''
    try {
      await signedIn(await post(PATH, { key: key.value }))
    } catch (refusal) {
      alert.textContent = refusal.message
      key.select()
    }
  }
  main.replaceChildren(
    h(
      'div',
      { class: 'sign-in' },
      h('h1', {}, 'Sign in'),
      h('p', {}, 'On the machine of the server, run ', code('relay console'), ' and open the link that it prints.'),
      h(
        'p',
        {},
        'Or use an API key with the scope ',
        code('console'),
        ' (to read), ',
        code('console:write'),
        ' (to act) or ',
        code('admin'),
        '.',
      ),
      h(
        'form',
        { onsubmit },
        field('API key', key),
        h(
          'p',
          {},
          button('Sign in', () => {}, { type: 'submit', class: 'primary' }),
        ),
      ),
      alert,
    ),
  )
  key.focus()
}
