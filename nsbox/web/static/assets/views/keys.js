// Keys: each is shown once, when it is made.

import { get, post, remove } from "../api.js";
import { asked, dialog, sure } from "../dialogs.js";
import { h, put } from "../dom.js";
import { choice, field, text, tick } from "../forms.js";
import { ago, moment } from "../format.js";
import { attempt, button, copy, heading, into, table } from "../parts.js";
import { session } from "../session.js";

export const title = "Keys";
const SCOPES = [
  ["sandboxes", "Sandboxes: create, run, pause, kill"],
  ["files", "Files in sandboxes"],
  ["images", "Images of this host"],
  ["admin", "Users, and whatever is others'"],
  ["read-only", "Only looking"],
];
const DAY = 86_400_000;

export function show({ place, signal }) {
  const list = h("div", { class: "panel" });
  const draw = () =>
    into(list, async () => {
      const { keys } = await get("/keys", { signal });
      return table("Keys", ["Name", "Scopes", "Made", "Last used", "Until", ""], keys.map((one) => row(one, draw)));
    });
  const make = button("New key", async () => (await made()) && draw(), { kind: "primary" });
  put(place, heading("Keys", make), list);
  draw();
}

function row(one, again) {
  const revoke = async () => {
    const own = one.id === session.me?.key.id ? " It is the one you are signed in with." : "";
    const wanted = await sure(`Revoke ${one.name}?`, `Whoever uses it is refused at once.${own}`, "Revoke");
    if (wanted && (await attempt(() => remove(`/keys/${one.id}`), "Revoked"))) again();
  };
  const until = one.revokedAt ? `revoked ${ago(one.revokedAt)}` : one.expiresAt ? moment(one.expiresAt) : "revoked";
  return [
    h("div", {}, h("div", { class: "strong" }, one.name), h("div", { class: "muted small mono" }, `${one.prefix}…`)),
    one.scopes.join(", "),
    ago(one.createdAt),
    ago(one.lastUsedAt),
    one.revokedAt || one.expiresAt ? until : "for ever",
    h("div", { class: "actions" }, !one.revokedAt && button("Revoke", revoke, { kind: "small quiet danger", label: `Revoke ${one.name}` })),
  ];
}

async function made() {
  const name = text({ placeholder: "laptop" });
  // A key makes none that may more than itself: what would be refused is not ticked.
  const own = (await get("/me")).key.scopes;
  const usual = (scope) => scope !== "admin" && scope !== "read-only" && own.includes(scope);
  const all = SCOPES.map(([scope, words]) => [scope, tick(words, { checked: usual(scope) })]);
  const until = choice([["", "for ever"], ["1", "1 day"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"]]);
  const scopes = h("fieldset", { class: "field" }, h("legend", {}, "It may"), all.map(([, one]) => one.element));
  const fields = [field("Name", name, { name: "name" }), scopes, field("It is good", until, { name: "expiresAt" })];
  const key = await asked("New key", fields, "Make the key", () =>
    post("/keys", {
      name: name.value.trim(),
      scopes: all.filter(([, one]) => one.box.checked).map(([scope]) => scope),
      expiresAt: until.value ? new Date(Date.now() + Number(until.value) * DAY).toISOString() : undefined,
    }),
  );
  if (!key) return false;
  await dialog("Your new key", (close) => [
    h("p", { class: "notice" }, "It is shown this once. Copy it now: nobody can tell you again."),
    h("pre", { tabindex: "0", class: "new-key", "aria-label": "The key" }, key.key),
    h("div", { class: "buttons" }, copy(() => key.key, "Copy the key"), button("I have it", () => close(true), { kind: "primary" })),
  ]);
  return true;
}
