// Forms whose errors stand at the field that a problem names.

import { h, fresh, set } from "./dom.js";

/** A field: a label, an input and a place for what is wrong with it. `name` is the member of the request. */
export function field(label, input, { name, hint } = {}) {
  input.id ||= fresh("field");
  const told = h("span", { class: "wrong", id: `${input.id}-wrong` });
  const help = hint ? h("span", { class: "hint", id: `${input.id}-hint` }, hint) : null;
  input.setAttribute("aria-describedby", [help?.id, told.id].filter(Boolean).join(" "));
  if (name) input.dataset.member = name;
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, help, told);
}

export function text(attributes = {}) {
  return h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
}

export function number(attributes = {}) {
  return h("input", { type: "number", inputmode: "numeric", ...attributes });
}

export function area(attributes = {}) {
  return h("textarea", { rows: 3, spellcheck: "false", autocomplete: "off", ...attributes });
}

/** A choice of `[value, text]`. */
export function choice(options, attributes = {}) {
  const { value, ...rest } = attributes;
  return h(
    "select",
    rest,
    options.map(([one, shown]) => h("option", { value: one, selected: one === value }, shown)),
  );
}

/** A box to tick, with its words behind it. */
export function tick(label, attributes = {}) {
  const id = fresh("tick");
  const box = h("input", { type: "checkbox", id, ...attributes });
  return { box, element: h("div", { class: "tick" }, box, h("label", { for: id }, label)) };
}

/**
 * A form; `submit` is called with what was pressed, and its problems are shown. `label` is the word on the button.
 */
export function form(children, label, submit, { kind = "primary", more = [] } = {}) {
  const told = h("div", { class: "trouble", role: "alert", hidden: true });
  const press = h("button", { type: "submit", class: `button ${kind}` }, label);
  const whole = h("form", { novalidate: true }, ...children, told, h("div", { class: "buttons" }, press, ...more));
  whole.addEventListener("submit", async (event) => {
    event.preventDefault();
    clear(whole, told);
    press.disabled = true;
    whole.setAttribute("aria-busy", "true");
    try {
      await submit();
    } catch (error) {
      if (error.name !== "AbortError") show(whole, told, error);
    } finally {
      press.disabled = false;
      whole.removeAttribute("aria-busy");
    }
  });
  // What was wrong with a field is not told of what is typed since.
  whole.addEventListener("input", ({ target }) => mended(target));
  return whole;
}

function clear(whole, told) {
  told.hidden = true;
  for (const input of whole.querySelectorAll("[aria-invalid]")) mended(input);
}

function mended(input) {
  if (!input.hasAttribute("aria-invalid")) return;
  input.removeAttribute("aria-invalid");
  set(document.getElementById(`${input.id}-wrong`));
}

/** At the field where there is one: `network.allow` is also shown at `network`, if that is all there is. */
function show(whole, told, problem) {
  const parts = (problem.field ?? "").replace(/\[.*?\]/g, "").split(".");
  while (parts.length > 0 && parts[0] !== "") {
    const input = whole.querySelector(`[data-member="${CSS.escape(parts.join("."))}"]`);
    if (input !== null) {
      let around = input.closest("details");
      for (; around; around = around.parentElement.closest("details")) around.open = true;
      input.setAttribute("aria-invalid", "true");
      set(document.getElementById(`${input.id}-wrong`), words(problem));
      input.focus();
      return;
    }
    parts.pop();
  }
  told.hidden = false;
  set(told, words(problem));
}

function words(problem) {
  return problem.remedy ? `${problem.message} (${problem.remedy})` : problem.message;
}

/** What stands in a text field, line by line. */
export function lines(input) {
  return input.value.split(/[\n,]/).map((one) => one.trim()).filter(Boolean);
}

/** A number, or undefined where nothing stands. What is no number is sent as it is, to be told so. */
export function numeric(input, factor = 1) {
  if (input.value.trim() === "") return input.validity?.badInput ? NaN : undefined;
  return Math.round(Number(input.value) * factor);
}

/** Lines of the form NAME=value; undefined where there is none. `member` is told of what is wrong. */
export function variables(input, member) {
  const found = {};
  for (const line of input.value.split("\n").filter((one) => one.trim() !== "")) {
    const at = line.indexOf("=");
    if (at < 1) throw Object.assign(new Error(`“${line.trim()}” is not of the form NAME=value`), { field: member });
    found[line.slice(0, at).trim()] = line.slice(at + 1);
  }
  return Object.keys(found).length > 0 ? found : undefined;
}
