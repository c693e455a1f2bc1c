// The small things that every page is made of.

import { h, fresh, put, set } from "./dom.js";

/** A word with a dot, for the state of a sandbox or a process. */
export function badge(status) {
  return h("span", { class: `badge is-${status}` }, status);
}

export function button(text, onclick, { kind = "", label, ...more } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, "aria-label": label, onclick, ...more }, text);
}

/** A link that looks like a button. */
export function go(text, href, kind = "") {
  return h("a", { class: `button ${kind}`, href }, text);
}

/** The head of a page: its name, and what can be done on it. */
export function heading(title, ...actions) {
  return h(
    "div",
    { class: "heading" },
    h("h1", { tabindex: "-1" }, title),
    h("div", { class: "actions" }, ...actions),
  );
}

/** A part of a page, with a name. */
export function section(title, ...children) {
  const id = fresh("section");
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** Where there is nothing, what could be. */
export function empty(title, detail, ...actions) {
  return h("div", { class: "empty" }, h("p", { class: "strong" }, title), h("p", {}, detail), ...actions);
}

/** A problem, in full. */
export function trouble(problem) {
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("p", { class: "strong" }, problem.message),
    problem.remedy ? h("p", {}, `What may help: ${problem.remedy}`) : null,
  );
}

/**
 * A table; `columns` are headings, and each row is as many cells. On a phone each row is a card (parts.css); the
 * roles are said because a table that is no table to the style sheet would be none to a screen reader either.
 */
export function table(name, columns, rows) {
  const head = columns.map((one) => h("th", { scope: "col", role: "columnheader" }, one || h("span", { class: "unseen" }, "Actions")));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": name },
    h(
      "table",
      { role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
      h("tbody", { role: "rowgroup" }, rows.map((cells) => line(columns, cells))),
    ),
  );
}

/** One row of a table with these columns. */
export function line(columns, cells) {
  return h(
    "tr",
    { role: "row" },
    cells.map((cell, index) => h("td", { role: "cell", "data-label": columns[index] }, cell)),
  );
}

/** Names and values. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs.filter(Boolean).map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))),
  );
}

/** A button that copies what `text` gives. */
export function copy(text, label = "Copy") {
  const one = button("Copy", async () => {
    const done = await toClipboard(text());
    one.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (one.textContent = "Copy"), 2000);
  }, { kind: "small quiet", label });
  return one;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByHand(text); // over plain HTTP there is no clipboard but this
  }
}

function copiedByHand(text) {
  const area = h("textarea", { class: "unseen", readonly: true, value: text });
  const host = document.querySelector("dialog[open]") ?? document.body;
  const before = document.activeElement;
  put(host, area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

let told = null;

/** Say something at the edge of the page, which goes away by itself; problems stay longer. */
export function toast(text, kind = "") {
  if (told === null || !told.isConnected) {
    told = h("div", { class: "toasts", role: "status", "aria-live": "polite" });
    put(document.body, told);
  }
  const one = h("div", { class: `toast ${kind}` }, text);
  put(told, one);
  setTimeout(() => one.remove(), kind === "bad" ? 9000 : 3500);
}

/** Do something that may go wrong, and say so if it does. Resolves to whether it went well. */
export async function attempt(work, done) {
  try {
    await work();
    if (done) toast(done);
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    toast(error.remedy ? `${error.message} (${error.remedy})` : error.message, "bad");
    return false;
  }
}

/** A place for what is loaded: first a word, then what it is, or the problem. */
export async function into(place, work) {
  set(place, h("p", { class: "muted" }, "Loading…"));
  try {
    set(place, await work());
  } catch (error) {
    if (error.name !== "AbortError") set(place, trouble(error));
  }
}
