// Getting started: the first requests, ready to be copied, with this daemon's own address in them.

import { ROOT } from "../api.js";
import { h, put, set } from "../dom.js";
import { tick } from "../forms.js";
import { copy, go, heading, section, table } from "../parts.js";
import { session } from "../session.js";
import { LANGUAGES, ROUTES, steps } from "../snippets.js";
import { tablist } from "../tabs.js";

export const title = "Getting started";
const NOBODY = "YOUR_API_KEY";
let language = "curl";

export function show({ place }) {
  const list = h("ol", { class: "steps" });
  const own = tick("Put my key into the examples");
  const draw = () => {
    const key = own.box.checked ? session.key : NOBODY;
    set(list, keyStep(), steps(ROOT, key).map(step));
  };
  own.box.addEventListener("change", draw);
  put(
    place,
    h(
      "div",
      { class: "start" },
      heading("Getting started"),
      h("p", { class: "muted" }, "Isolated Linux environments through plain HTTP: create one, run commands, read and write files, and be done with it. No SDK is needed."),
      session.key ? own.element : h("p", {}, " "),
      list,
      h("h2", {}, "All routes"),
      h("p", { class: "muted" }, "Below ", h("code", {}, ROOT), ", each with the header ", h("code", {}, "Authorization: Bearer YOUR_API_KEY"), "."),
      ROUTES.map(([name, routes]) => section(name, h("div", { class: "routes" }, table(name, ["Method", "Path", "What"], routes.map(route))))),
    ),
  );
  draw();
}

function keyStep() {
  const where = session.key === null ? go("Sign in", "#/signin", "small") : session.parts.has("keys") ? go("Make a key", "#/keys", "small") : null;
  return h(
    "li",
    { class: "step" },
    h("h2", {}, "Get a key"),
    h("p", {}, "Every request needs one. On the host, ", h("code", {}, "nsbox keys create NAME"), " makes one; it is shown once."),
    where,
  );
}

function step({ title, detail, snippets }, index) {
  const languages = title === "Use a language" && h("div", { class: "panel" }, table("Languages", ["Language", "Image"], LANGUAGES.map(([name, image]) => [name, h("code", {}, image)])));
  return h("li", { class: "step" }, h("h2", {}, title), h("p", {}, detail), languages, snippets.map((one, at) => snippet(`${title}, example ${at + 1}`, one)));
}

/** One example in three languages; picking one picks it in all. */
function snippet(label, codes) {
  const { list, panel, choose } = tablist(label, codes.map(([name]) => [name, name]), (name) => {
    language = name;
    for (const other of document.querySelectorAll(".snippet")) other.dispatchEvent(new Event("language"));
  });
  const code = h("pre", {});
  put(panel, code);
  const whole = h("div", { class: "snippet" }, h("div", { class: "top" }, list, copy(() => code.textContent, `Copy: ${label}`)), panel);
  const draw = () => {
    choose(language);
    code.textContent = codes.find(([name]) => name === language)[1];
  };
  whole.addEventListener("language", draw);
  draw();
  return whole;
}

function route([method, path, what]) {
  return [method, h("code", {}, path), h("span", { class: "muted" }, what)];
}
