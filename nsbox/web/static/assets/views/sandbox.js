// One sandbox: what it is, what can be done with it, and a tab for each part of it.

import * as act from "../actions.js";
import { get } from "../api.js";
import { h, put, say, set } from "../dom.js";
import { megabytes, moment } from "../format.js";
import { button, copy, trouble } from "../parts.js";
import { poll } from "../poll.js";
import { tablist } from "../tabs.js";
import { files } from "./files.js";
import { network } from "./network.js";
import { overview } from "./overview.js";
import { ports } from "./ports.js";
import { processes } from "./processes.js";
import { saved } from "./saved.js";
import { end } from "./sandboxes.js";
import { terminal } from "./terminal.js";

export const title = "Sandbox";
export const key = ([id]) => id;

const TABS = [
  ["overview", "Overview", overview],
  ["terminal", "Terminal", terminal],
  ["files", "Files", files],
  ["processes", "Processes", processes],
  ["ports", "Ports", ports],
  ["network", "Network", network],
  ["snapshots", "Snapshots", saved],
];
// Of one that has ended there is nothing to be had but what the record says.
const AFTER = new Set(["overview", "snapshots"]);

export async function show({ place, params, signal }) {
  const [id] = params;
  const box = { id, record: await get(`/sandboxes/${id}`, { signal }), signal, changed: new EventTarget() };
  const state = h("span", { class: "badge" });
  const about = h("p", { class: "about" });
  const buttons = h("div", { class: "actions" });
  const broken = h("div");
  const { list, panel, choose } = tablist("Parts of the sandbox", TABS, (tab) => {
    location.hash = `#/sandbox/${id}/${tab}`;
  });
  put(
    place,
    h("p", { class: "crumb" }, h("a", { href: "#/sandboxes" }, "Sandboxes")),
    h(
      "div",
      { class: "heading" },
      h("div", { class: "title" }, h("h1", { tabindex: "-1" }, id), copy(() => id, "Copy the id"), state),
      buttons,
    ),
    about,
    broken,
    list,
    panel,
  );

  let leaving = new AbortController();
  let current = null;
  let drawn = "";

  async function refresh() {
    const before = JSON.stringify(box.record);
    box.record = await get(`/sandboxes/${id}`, { signal });
    head();
    const changed = JSON.stringify(box.record) !== before;
    if (changed) box.changed.dispatchEvent(new Event("change"));
    return changed;
  }

  const again = poll(refresh, { signal, every: 2000, most: 8000, failed: (problem) => set(broken, problem && trouble(problem)) });
  box.refresh = again;

  function head() {
    const one = box.record;
    say(state, one.status);
    state.className = `badge is-${one.status}`;
    const words = [
      one.image ?? one.templateId,
      `${one.vcpus} vCPU`,
      megabytes(one.memoryMb),
      `created ${moment(one.createdAt)}`,
      one.endedAt ? end(one) : `ends ${end(one)}`,
    ];
    set(about, words.map((word) => h("span", {}, word)));
    if (drawn === one.status) return; // what has the focus stays
    drawn = one.status;
    set(buttons, actions(one));
    for (const [index, [tab]] of TABS.entries()) {
      list.children[index].hidden = !act.ALIVE.has(one.status) && !AFTER.has(tab);
    }
  }

  function actions(one) {
    const doing = async (work) => (await work(id)) && again();
    if (!act.ALIVE.has(one.status)) return [];
    return [
      one.status === "paused"
        ? button("Resume", () => doing(act.resume), { kind: "primary" })
        : button("Pause", () => doing(act.pause)),
      button("More time", () => doing(act.extend)),
      button("Fork", async () => {
        const made = await act.fork(id);
        if (made?.length === 1) location.hash = `#/sandbox/${made[0].id}`;
        else if (made) location.hash = "#/sandboxes";
      }),
      button("Kill", () => doing(act.kill), { kind: "danger" }),
    ];
  }

  function route([, wanted = "overview", ...rest]) {
    const alive = act.ALIVE.has(box.record.status);
    const tab = TABS.find(([one]) => one === wanted && (alive || AFTER.has(one))) ?? TABS[0];
    if (current === tab && rest.length === 0) return;
    current = tab;
    choose(tab[0]);
    leaving.abort();
    leaving = new AbortController();
    const inside = h("div");
    set(panel, inside);
    const both = AbortSignal.any([signal, leaving.signal]);
    Promise.resolve(tab[2](inside, { ...box, get record() { return box.record; }, signal: both }, rest)).catch((error) => {
      if (error.name !== "AbortError") put(inside, trouble(error));
    });
  }

  head();
  route(params);
  return route;
}
