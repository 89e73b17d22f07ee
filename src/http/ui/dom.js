// Elements from code. Text becomes text nodes: nothing of this page parses HTML, so no name or error can become any.

const SVG = 'http://www.w3.org/2000/svg';

/** An HTML element. `props`: attributes (true: present, false or null: absent), `on`: {event: listener}. */
export function h(tag, props = {}, ...children) {
  return dress(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), props, children);
}

function dress(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, '');
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...pieces(children));
  return element;
}

const pieces = (children) =>
  children.flat(9).filter((child) => child !== null && child !== undefined && child !== false);

/** Puts `children` in the place of what `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren(...pieces(children));
  return element;
}

/** Sets an element's text where it differs, so that a screen reader is not told the same again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Brings `container`'s children in line with `items`, reusing the element of a known key: what has the focus keeps it.
 * `make(item)` builds an element; `update(element, item)` brings it up to date.
 */
export function keyed(container, items, key, make, update) {
  const known = new Map([...container.children].map((element) => [element.dataset.key, element]));
  // Those that are gone go first: so those that stay need not be moved, and keep the focus.
  const stay = new Set(items.map((item) => String(key(item))));
  for (const [name, element] of known) if (!stay.has(name)) element.remove();
  let place = container.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = known.get(name);
    known.delete(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else container.insertBefore(element, place);
  }
}
