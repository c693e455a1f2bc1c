// What is done to a sandbox, with the questions before it.

import { post, remove } from "./api.js";
import { asked, sure } from "./dialogs.js";
import { choice, field, numeric, number, text } from "./forms.js";
import { attempt, toast } from "./parts.js";
import { short } from "./format.js";

export const ALIVE = new Set(["creating", "running", "pausing", "paused", "resuming", "stopping"]);

export const pause = (id) => attempt(() => post(`/sandboxes/${id}/pause`), "Paused");
export const resume = (id) => attempt(() => post(`/sandboxes/${id}/resume`), "Running again");

export async function kill(id) {
  const wanted = await sure(
    `Kill ${short(id)}?`,
    "Everything that runs in it ends, and its files are gone. Take a snapshot first to keep them.",
    "Kill it",
  );
  return wanted ? attempt(() => remove(`/sandboxes/${id}`), "Killed") : false;
}

export function extend(id) {
  const time = choice(
    [[15, "15 minutes"], [30, "30 minutes"], [60, "1 hour"], [240, "4 hours"], [720, "12 hours"], [1440, "24 hours"]].map(
      ([minutes, words]) => [String(minutes * 60_000), words],
    ),
    { value: "3600000" },
  );
  return asked("More time", [field("It ends, from now, in", time, { name: "timeoutMs" })], "Set", () =>
    post(`/sandboxes/${id}/timeout`, { timeoutMs: Number(time.value) }),
  );
}

/** Resolves to the new snapshot, if there is one. */
export async function snapshot(id) {
  const name = text({ placeholder: "before the upgrade" });
  const made = await asked("Take a snapshot", [field("Name", name, { name: "name", hint: "For people; may be left out." })], "Take it", () =>
    post(`/sandboxes/${id}/snapshots`, { name: name.value.trim() }),
  );
  if (made) toast("The snapshot is there");
  return made;
}

/** Resolves to the new sandboxes, if there are any. */
export async function fork(id) {
  const count = number({ value: "1", min: 1, max: 64 });
  const made = await asked(
    "Fork",
    [field("How many", count, { name: "count", hint: "New sandboxes with the files that this one has now." })],
    "Fork",
    () => post(`/sandboxes/${id}/fork`, { count: numeric(count) }),
  );
  if (made) toast(made.sandboxes.length === 1 ? "A fork runs" : `${made.sandboxes.length} forks run`);
  return made?.sandboxes;
}
