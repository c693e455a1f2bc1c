// xterm.js under a policy without 'unsafe-inline' (ADR 0073). It puts style elements into the page and sets style
// attributes, which such a policy forbids; the same rules through the CSSOM are allowed. So while a terminal is
// opened, what it takes for style elements are style sheets of the document; and the style attribute of the spans
// it draws goes through the property.

import { Terminal } from "./vendor/xterm.mjs";

/** Stands where a style element would; its text is a constructed sheet. */
function sheetElement() {
  const sheet = new CSSStyleSheet();
  const element = document.createComment("style");
  document.adoptedStyleSheets.push(sheet);
  Object.defineProperty(element, "textContent", { set: (text) => sheet.replaceSync(text) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Comment.prototype.remove.call(element);
  };
  return element;
}

const setAttribute = Element.prototype.setAttribute;

HTMLSpanElement.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

/** A terminal in `place`. */
export function openTerminal(place, options) {
  const terminal = new Terminal(options);
  const create = document.createElement;
  document.createElement = (name, more) => (name === "style" ? sheetElement() : create.call(document, name, more));
  try {
    terminal.open(place);
  } finally {
    delete document.createElement; // the one of the prototype
  }
  return terminal;
}
