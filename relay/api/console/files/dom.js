// Elements. Text of users enters the page as text nodes alone, so markup in a name or a message stays text.

/** Return a new element. Attributes that begin with `on` are listeners; null and false ones are left out. */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value)
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? '' : value)
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined))
  return made
}

/** Return a button. */
export const button = (label, onclick, attributes = {}) =>
  h('button', { type: 'button', onclick, ...attributes }, label)

/** Return a labelled field. `input` is an element with an id. */
export const field = (label, input) => h('p', { class: 'field' }, h('label', { for: input.id }, label), input)

/** Return a select with these options: texts, or pairs of value and label. */
export const select = (attributes, options) =>
  h(
    'select',
    attributes,
    options.map((one) => {
      const [value, label] = Array.isArray(one) ? one : [one, one]
      return h('option', { value }, label)
    }),
  )

/** Return the value of a form's fields by name; empty texts are left out. */
export const values = (form) => Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ''))

/** Return what a list shows when it is empty: what that means, and what to do next. */
export const empty = (title, ...next) =>
  h('div', { class: 'empty' }, h('p', {}, h('strong', {}, title)), h('p', {}, ...next))

export const code = (text) => h('code', {}, text)
