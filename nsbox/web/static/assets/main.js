// The frame around the pages: navigation, routes (behind the # of the address), sign in and out.

import { get } from "./api.js";
import { h, put, set } from "./dom.js";
import { button, trouble } from "./parts.js";
import { session } from "./session.js";
import * as audit from "./views/audit.js";
import * as create from "./views/create.js";
import * as images from "./views/images.js";
import * as keys from "./views/keys.js";
import * as sandbox from "./views/sandbox.js";
import * as sandboxes from "./views/sandboxes.js";
import * as signin from "./views/signin.js";
import * as snapshots from "./views/snapshots.js";
import * as start from "./views/start.js";
import * as usage from "./views/usage.js";
import * as users from "./views/users.js";

// [path, page, in the navigation as, shown only if the daemon has]
const PAGES = [
  ["sandboxes", sandboxes, "Sandboxes"],
  ["new", create],
  ["sandbox", sandbox],
  ["images", images, "Images"],
  ["snapshots", snapshots, "Snapshots"],
  ["keys", keys, "Keys", "keys"],
  ["users", users, "Users", "users"],
  ["usage", usage, "Usage", "usage"],
  ["audit", audit, "Audit log", "audit"],
  ["start", start, "Getting started"],
];
const PROBES = { keys: "/keys", users: "/users", usage: "/usage?by=total", audit: "/audit?limit=1" };

const main = h("main", { id: "main", tabindex: "-1" });
const nav = h("nav", { id: "nav", "aria-label": "Pages" });
const who = h("div", { class: "who" });
const acting = h("div", { class: "acting", role: "status" });
const menu = h(
  "button",
  { type: "button", class: "button quiet menu", "aria-expanded": "false", "aria-controls": "nav" },
  "Menu",
);
let shown = null; // {page, key, leave: AbortController, route}

function frame() {
  const skip = h("a", { class: "skip", href: "#main" }, "Skip to the content");
  skip.addEventListener("click", (event) => {
    event.preventDefault(); // the # is a route
    main.focus();
  });
  menu.addEventListener("click", () => open(menu.getAttribute("aria-expanded") !== "true"));
  const mark = h("img", { src: new URL("icon.svg", import.meta.url).href, alt: "", width: 24, height: 24 });
  const brand = h("a", { class: "brand", href: "#/sandboxes" }, mark, "nsbox");
  put(
    document.body,
    skip,
    h("header", { class: "bar" }, brand, menu, h("div", { class: "side" }, nav, who)),
    h("div", { class: "page" }, acting, main),
  );
  addEventListener("keydown", (event) => event.key === "Escape" && open(false));
}

function open(wanted) {
  menu.setAttribute("aria-expanded", String(wanted));
  document.body.classList.toggle("menu-open", wanted);
}

function navigation(path) {
  const items = PAGES.filter(([, , name, part]) => name && (!part || session.parts.has(part)));
  const visible = session.key === null ? items.filter(([one]) => one === "start") : items;
  const current = path === "sandbox" || path === "new" ? "sandboxes" : path;
  set(
    nav,
    visible.map(([one, , name]) =>
      h("a", { href: `#/${one}`, "aria-current": one === current ? "page" : null }, name),
    ),
  );
  const person = session.me ? h("span", { class: "muted", title: session.me.user.id }, session.me.user.name) : null;
  set(
    who,
    person,
    themes(),
    session.key !== null && button("Sign out", () => leave(), { kind: "quiet small" }),
    session.key === null && path !== "signin" && h("a", { class: "button quiet small", href: "#/signin" }, "Sign in"),
  );
  set(acting);
  if (session.tenant) {
    const stop = button("Stop", () => {
      session.tenant = null;
      location.hash = "#/users";
      route();
    }, { kind: "small" });
    set(acting, `You act for ${session.tenant.name}: what you see and do is theirs. `, stop);
  }
}

function themes() {
  const root = document.documentElement;
  const pick = h(
    "select",
    { "aria-label": "Colours", class: "small" },
    [["", "System"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) =>
      h("option", { value, selected: (root.dataset.theme ?? "") === value }, text),
    ),
  );
  pick.addEventListener("change", () => {
    if (pick.value) root.dataset.theme = pick.value;
    else delete root.dataset.theme;
    try {
      localStorage.setItem("nsbox.theme", pick.value);
    } catch {
      // It holds until the page is left.
    }
    dispatchEvent(new Event("nsbox:theme"));
  });
  return pick;
}

function leave(problem) {
  session.end();
  if (location.hash === "#/signin") route(problem);
  else location.hash = "#/signin";
}

/** Which optional parts there are. A daemon without them says `route_not_found`, and hides nothing else. */
async function discover() {
  const found = new Set();
  const look = async (part, path) => {
    try {
      await get(path);
      found.add(part);
    } catch {
      // It is not there, or not for this key.
    }
  };
  session.me = await get("/me").catch(() => null);
  await Promise.all(Object.entries(PROBES).map(([part, path]) => look(part, path)));
  session.parts = found;
}

async function route(problem) {
  const [path = "", ...params] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  const entry = PAGES.find(([one]) => one === path);
  if (session.key === null && path !== "start") {
    await show("signin", signin, [], { problem, signedIn });
  } else if (entry === undefined || (entry[3] && !session.parts.has(entry[3]))) {
    location.replace("#/sandboxes");
  } else {
    await show(path, entry[1], params);
  }
}

async function show(path, page, params, more = {}) {
  open(false);
  navigation(path);
  const key = page.key?.(params) ?? [path, ...params].join("/");
  if (shown !== null && shown.page === page && shown.key === key && shown.route) {
    shown.route(params);
    return;
  }
  shown?.leave.abort();
  const leaving = new AbortController();
  const now = { page, key, leave: leaving, route: null };
  const first = shown === null;
  shown = now;
  const place = h("div", { class: `view view-${path}` });
  set(main, place);
  scrollTo(0, 0);
  document.title = `${page.title ?? "nsbox"} · nsbox`;
  try {
    now.route = await page.show({ place, params, signal: leaving.signal, ...more });
  } catch (error) {
    if (error.name !== "AbortError") put(place, trouble(error));
  }
  // Whoever listens to the page hears where they are now.
  if (!first && shown === now && !place.contains(document.activeElement)) {
    place.querySelector("h1")?.focus({ preventScroll: true });
  }
}

async function signedIn() {
  await discover();
  if (location.hash === "#/signin" || location.hash === "") location.hash = "#/sandboxes";
  else route();
}

addEventListener("hashchange", () => route());
// Whoever is just signing in is told so in the form.
addEventListener("nsbox:refused", (event) => session.key !== null && shown?.page !== signin && leave(event.detail));
frame();
if (session.key !== null) await discover();
if (location.hash === "") location.replace(session.key === null ? "#/signin" : "#/sandboxes");
else route();
