// Users of this host, for its administrators.

import { ask, get, post, remove } from "../api.js";
import { asked, sure } from "../dialogs.js";
import { h, put } from "../dom.js";
import { choice, field, text } from "../forms.js";
import { ago } from "../format.js";
import { attempt, button, heading, into, table } from "../parts.js";
import { session } from "../session.js";

export const title = "Users";
const ROLES = [["user", "User"], ["admin", "Administrator"]];

export function show({ place, signal }) {
  const list = h("div", { class: "panel" });
  const draw = () =>
    into(list, async () => {
      const { users } = await get("/users", { signal });
      return table("Users", ["Name", "Role", "Plan", "Since", ""], users.map((one) => row(one, draw)));
    });
  const add = button("New user", async () => (await edited("New user")) && draw(), { kind: "primary" });
  put(place, heading("Users", add), list);
  draw();
}

function row(one, again) {
  const own = one.id === session.me?.user.id;
  const act = () => {
    session.tenant = one;
    location.hash = "#/sandboxes";
  };
  const turn = async () => {
    if (await attempt(() => ask("PATCH", `/users/${one.id}`, { body: { disabled: !one.disabled } }))) again();
  };
  const drop = async () => {
    const wanted = await sure(`Remove ${one.name}?`, "Their keys stop working.", "Remove");
    if (wanted && (await attempt(() => remove(`/users/${one.id}`), "Removed"))) again();
  };
  return [
    h("div", {}, h("div", { class: "strong" }, one.name), h("div", { class: "muted small mono" }, one.id)),
    one.role,
    one.plan,
    one.disabled ? "disabled" : ago(one.createdAt),
    h(
      "div",
      { class: "actions" },
      !own && !one.disabled && button("Act for", act, { kind: "small", label: `Act for ${one.name}` }),
      button("Change", async () => (await edited(`Change ${one.name}`, one)) && again(), { kind: "small quiet", label: `Change ${one.name}` }),
      !own && button(one.disabled ? "Enable" : "Disable", turn, { kind: "small quiet", label: `${one.disabled ? "Enable" : "Disable"} ${one.name}` }),
      !own && button("Remove", drop, { kind: "small quiet danger", label: `Remove ${one.name}` }),
    ),
  ];
}

function edited(heading, one) {
  const name = text({ value: one?.name ?? "" });
  const role = choice(ROLES, { value: one?.role ?? "user" });
  const plan = text({ value: one?.plan ?? "unlimited" });
  const fields = [
    field("Name", name, { name: "name" }),
    field("Role", role, { name: "role" }),
    field("Plan", plan, { name: "plan", hint: "One of the settings: unlimited, free, pro, or one of your own." }),
  ];
  const body = () => ({ name: name.value.trim(), role: role.value, plan: plan.value.trim() });
  return asked(heading, fields, one ? "Save" : "Add", () =>
    one ? ask("PATCH", `/users/${one.id}`, { body: body() }) : post("/users", body()),
  );
}
