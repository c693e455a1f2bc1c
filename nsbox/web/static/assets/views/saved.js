// Snapshots of one sandbox.

import * as act from "../actions.js";
import { get } from "../api.js";
import { h, put } from "../dom.js";
import { button, empty, into, section } from "../parts.js";
import { listed } from "./snapshots.js";

export function saved(place, box) {
  const list = h("div");
  const show = () =>
    into(list, async () => {
      const found = await get(`/sandboxes/${box.id}/snapshots`, { signal: box.signal });
      if (found.length === 0) return empty("No snapshot yet", "A snapshot keeps the files as they are now; new sandboxes go on from there.");
      return listed(found, show);
    });
  const take = button("Take a snapshot", async () => (await act.snapshot(box.id)) && show(), { kind: "primary" });
  put(place, act.ALIVE.has(box.record.status) && h("div", { class: "toolbar" }, take), section("Snapshots of this sandbox", list));
  return show();
}
