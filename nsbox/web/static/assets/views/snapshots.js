// All snapshots.

import { get, remove, save } from "../api.js";
import { sure } from "../dialogs.js";
import { h, put } from "../dom.js";
import { ago, bytes, short } from "../format.js";
import { attempt, button, empty, go, heading, into, table } from "../parts.js";

export const title = "Snapshots";

export function show({ place, signal }) {
  const list = h("div", { class: "panel" });
  const draw = () =>
    into(list, async () => {
      const found = await get("/snapshots", { signal });
      if (found.length === 0) return empty("No snapshots", "Take one on the page of a sandbox: what it has written is kept, and new ones go on from there.");
      return listed(found, draw);
    });
  put(place, heading("Snapshots"), list);
  return void draw();
}

/** Snapshots as a table; `again` is called after a change. */
export function listed(found, again) {
  return table("Snapshots", ["Name", "Of", "Size", "Taken", ""], found.toReversed().map((one) => row(one, again)));
}

function row(one, again) {
  const name = one.name || short(one.id);
  const drop = async () => {
    const wanted = await sure(`Delete ${name}?`, "Sandboxes that were made from it go on.", "Delete");
    if (wanted && (await attempt(() => remove(`/snapshots/${one.id}`), "Deleted"))) again();
  };
  const out = () => save(`/snapshots/${one.id}/export/ticket`, `/snapshots/${one.id}/export`, `${one.id}.tar`);
  return [
    h("div", {}, h("div", { class: "strong" }, name), h("div", { class: "muted small" }, `${one.image ?? one.templateId}${one.durable ? "" : ", not on disk yet"}`)),
    h("a", { href: `#/sandbox/${one.sandboxId}`, class: "mono" }, short(one.sandboxId)),
    h("span", { class: "number" }, bytes(one.sizeBytes)),
    ago(one.createdAt),
    h(
      "div",
      { class: "actions" },
      go("New sandbox", `#/new/snapshot/${one.id}`, "small"),
      button("Export", () => attempt(out, "The export has begun"), { kind: "small quiet", label: `Export ${name}` }),
      button("Delete", drop, { kind: "small quiet danger", label: `Delete ${name}` }),
    ),
  ];
}
