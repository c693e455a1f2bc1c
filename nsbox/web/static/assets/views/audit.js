// Who did what, from where.

import { get } from "../api.js";
import { h, put } from "../dom.js";
import { field, form, text } from "../forms.js";
import { moment, short, visible } from "../format.js";
import { attempt, button, empty, heading, into, line, table } from "../parts.js";

export const title = "Audit log";
const PAGE = 50;
const COLUMNS = ["When", "What", "Sandbox", "Who", "From", "Outcome"];

export function show({ place, signal }) {
  const action = text({ placeholder: "any" });
  const sandbox = text({ placeholder: "any" });
  const user = text({ placeholder: "any" });
  const list = h("div", { class: "panel" });

  const query = (before) => {
    const asked = new URLSearchParams({ limit: PAGE });
    for (const [name, input] of [["action", action], ["sandboxId", sandbox], ["userId", user]]) {
      if (input.value.trim()) asked.set(name, input.value.trim());
    }
    if (before) asked.set("before", before);
    return `/audit?${asked}`;
  };

  const draw = () =>
    into(list, async () => {
      const first = await get(query(), { signal });
      if (first.events.length === 0) return empty("Nothing yet", "What is done through the API is written down here.");
      const whole = table("Audit log", COLUMNS, first.events.map(row));
      return [whole, more(whole.querySelector("tbody"), first.next)];
    });

  function more(body, next) {
    const place = h("div", { class: "buttons" });
    const offer = (behind) => {
      place.replaceChildren();
      if (behind === null || behind === undefined) return;
      put(place, button("Older ones", () => attempt(async () => {
        const page = await get(query(behind), { signal });
        put(body, page.events.map((one) => line(COLUMNS, row(one))));
        offer(page.next);
      })));
    };
    offer(next);
    return place;
  }

  const filter = form(
    [field("Action", action, { name: "action" }), field("Sandbox", sandbox, { name: "sandboxId" }), field("User", user, { name: "userId" })],
    "Show",
    async () => draw(),
  );
  put(place, heading("Audit log"), h("div", { class: "row-form panel" }, filter), list);
  draw();
}

function row(one) {
  return [
    h("span", { class: "small" }, moment(one.at)),
    h("div", {}, h("div", { class: "mono" }, one.action), one.target && h("div", { class: "muted small mono" }, short(visible(one.target)))),
    one.sandboxId ? h("a", { href: `#/sandbox/${one.sandboxId}`, class: "mono" }, short(one.sandboxId)) : "—",
    h("span", { class: "mono small" }, who(one)),
    h("span", { class: "mono" }, one.from ? visible(one.from) : "—"),
    [one.outcome, one.status, one.count > 1 && `× ${one.count}`].filter(Boolean).join(" "),
  ];
}

/** The user, for whom if that is somebody else, and the key. */
function who({ userId, onBehalfOf, keyId }) {
  const names = [userId && short(userId), onBehalfOf && `for ${short(onBehalfOf)}`, keyId && short(keyId)];
  return names.filter(Boolean).join(" ") || "—";
}
