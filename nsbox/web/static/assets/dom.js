// Elements from functions. Whatever is given as a child or a value goes in as text or as a node: there is no
// way in here for HTML, and the page's policy (Trusted Types) takes none from anywhere else.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  put(element, ...children);
  return element;
}

/** An HTML element: `h("a", {href: "#/"}, "text", node, …)`. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function s(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Append; what is null, undefined or false is left out. */
export function put(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Replace all that an element has. */
export function set(element, ...children) {
  element.replaceChildren();
  return put(element, ...children);
}

/** Change a text only where it differs, so that a selection in it survives. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let numbered = 0;

/** An id that no other element has. */
export function fresh(prefix) {
  numbered += 1;
  return `${prefix}-${numbered}`;
}

/**
 * Bring a list of elements up to date: one for each item, by its key, in this order. Elements that stay are not
 * touched, so focus and selection stay where they are.
 */
export function keyed(parent, known, items, keyOf, make) {
  const wanted = new Set(items.map(keyOf));
  for (const [key, row] of known) {
    if (wanted.has(key)) continue;
    row.element.remove();
    row.gone?.();
    known.delete(key);
  }
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (!known.has(key)) known.set(key, make(item));
    const row = known.get(key);
    row.update?.(item);
    if (row.element === before) before = before.nextElementSibling;
    else parent.insertBefore(row.element, before);
  }
}
