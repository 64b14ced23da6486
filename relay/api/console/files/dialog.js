// Dialogs: a question before a change, and a form.
import { button, h } from '/console/dom.js'

/** Show a dialog with this content, and return the values of its form; null if it was closed. */
export function ask(title, action, ...content) {
  return new Promise((resolve) => {
    const form = h(
      'form',
      { method: 'dialog' },
      h('h2', { id: 'dialog-title' }, title),
      ...content,
      h(
        'p',
        { class: 'actions' },
        button('Cancel', () => dialog.close()),
        h('button', { type: 'submit', class: 'primary', value: 'yes' }, action),
      ),
    )
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title' }, form)
    let given = null
    form.addEventListener('submit', () => {
      given = new FormData(form)
    })
    dialog.addEventListener('close', () => {
      dialog.remove()
      resolve(given)
    })
    document.body.append(dialog)
    dialog.showModal()
  })
}

/** Show content until the person closes it. */
export function show(title, ...content) {
  const dialog = h(
    'dialog',
    { 'aria-labelledby': 'dialog-title' },
    h('h2', { id: 'dialog-title' }, title),
    ...content,
    h(
      'p',
      { class: 'actions' },
      button('Close', () => dialog.close(), { class: 'primary' }),
    ),
  )
  dialog.addEventListener('close', () => dialog.remove())
  document.body.append(dialog)
  dialog.showModal()
}
