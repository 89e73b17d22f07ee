// Builds elements. Text always becomes text nodes: the page never parses HTML, so no name or message can inject any.

const SVG = 'http://www.w3.org/2000/svg';

/** An HTML element. `props`: attributes (true: present, false or null: absent), `on`: {event: listener}. */
export function h(tag, props = {}, ...children) {
  return build(document.createElement(tag), props, children);
}

/** An SVG element. */
export function svg(tag, props = {}, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, '');
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...flatten(children));
  return element;
}

const flatten = (children) =>
  children.flat(9).filter((child) => child !== null && child !== undefined && child !== false);

/** Replaces the children of `element`. */
export function fill(element, ...children) {
  element.replaceChildren(...flatten(children));
  return element;
}

/** Sets an element's text if it differs, so that a screen reader does not read the same text again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Brings the children of `container` in line with `items` and reuses elements by key, so that the focus is not lost.
 * `create(item)` builds an element; `update(element, item)` brings it up to date.
 */
export function renderList(container, items, keyOf, create, update) {
  const existing = new Map([...container.children].map((element) => [element.dataset.key, element]));
  // Removed first: the remaining elements need not be moved then, and keep the focus.
  const wanted = new Set(items.map((item) => String(keyOf(item))));
  for (const [key, element] of existing) if (!wanted.has(key)) element.remove();
  let next = container.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = existing.get(key);
    existing.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === next) next = next.nextElementSibling;
    else container.insertBefore(element, next);
  }
}
