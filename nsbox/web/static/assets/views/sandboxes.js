// All sandboxes, with what they do now.

import * as act from "../actions.js";
import { get } from "../api.js";
import { spark } from "../chart.js";
import { h, keyed, put, say, set } from "../dom.js";
import { bytes, left, megabytes, percent, short, ago } from "../format.js";
import { Meters } from "../meters.js";
import { button, empty, go, heading, trouble } from "../parts.js";
import { poll } from "../poll.js";

export const title = "Sandboxes";

export function show({ place, signal }) {
  const list = h("ul", { class: "boxes", role: "list", "aria-label": "Sandboxes" });
  const head = h(
    "div",
    { class: "box-head", "aria-hidden": "true" },
    ["Sandbox", "State", "Processor", "Memory", "Ends", ""].map((one) => h("span", {}, one)),
  );
  const wanted = h("input", { type: "search", placeholder: "Find by id or template", "aria-label": "Find a sandbox" });
  const ended = h("input", { type: "checkbox", id: "ended" });
  const count = h("span", { class: "muted" });
  const state = h("div");
  const meters = new Meters(signal);
  const known = new Map();
  let all = [];
  let before = "";

  function draw() {
    const word = wanted.value.trim().toLowerCase();
    const fits = all.filter((one) => `${one.id} ${one.templateId} ${one.image ?? ""}`.toLowerCase().includes(word));
    keyed(list, known, fits, (one) => one.id, (one) => row(one, meters, again));
    head.hidden = fits.length === 0;
    say(count, counted(all));
    if (fits.length > 0) set(state);
    else set(state, word ? empty("Nothing fits", "No sandbox has this in its id or template.") : nothing());
  }

  const again = poll(
    async () => {
      const found = await get(`/sandboxes${ended.checked ? "?status=all" : ""}`, { signal });
      const now = JSON.stringify(found);
      const changed = now !== before;
      before = now;
      all = found.reverse();
      draw();
      return changed;
    },
    { signal, failed: (problem) => problem && set(state, trouble(problem)) },
  );
  wanted.addEventListener("input", draw);
  ended.addEventListener("change", again);
  put(
    place,
    heading("Sandboxes", go("New sandbox", "#/new", "primary")),
    h(
      "div",
      { class: "toolbar" },
      wanted,
      h("div", { class: "tick" }, ended, h("label", { for: "ended" }, "Ended ones, too")),
      count,
    ),
    head,
    list,
    state,
  );
}

function counted(all) {
  const running = all.filter((one) => one.status === "running").length;
  const paused = all.filter((one) => one.status === "paused").length;
  return [running && `${running} running`, paused && `${paused} paused`].filter(Boolean).join(", ");
}

function nothing() {
  return empty(
    "No sandbox yet",
    "A sandbox is a Linux of its own: commands, files, ports, in milliseconds.",
    go("Create the first one", "#/new", "primary"),
  );
}

function row(first, meters, again) {
  const { id } = first;
  const name = h("span", { class: "mono", title: id }, short(id));
  const from = h("span", { class: "muted" });
  const state = h("span", { class: "badge" });
  const cpu = spark();
  const cpuNow = h("span", {});
  const memory = spark();
  const memoryNow = h("span", {});
  const ends = h("span", { class: "ends number muted small" });
  const doing = async (work) => (await work(id)) && again();
  const stop = button("Pause", () => doing(act.pause), { kind: "small", label: `Pause ${short(id)}` });
  const go_on = button("Resume", () => doing(act.resume), { kind: "small", label: `Resume ${short(id)}` });
  const kill = button("Kill", () => doing(act.kill), { kind: "small quiet danger", label: `Kill ${short(id)}` });
  const element = h(
    "li",
    { class: "box" },
    h("a", { href: `#/sandbox/${id}` }, name, from),
    state,
    h("span", { class: "meter cpu" }, cpu.element, cpuNow),
    h("span", { class: "meter memory" }, memory.element, memoryNow),
    ends,
    h("div", { class: "actions" }, stop, go_on, kill),
  );
  let now = first;
  const measured = (svg, values) => svg.parentElement.classList.toggle("none", values.every((one) => one === null));
  meters.add(id, element, (samples) => {
    const last = samples.at(-1);
    measured(cpu.element, samples.map((one) => one.cpu.percent));
    measured(memory.element, samples.map((one) => one.memory.bytes));
    cpu.update(samples.map((one) => one.cpu.percent), now.vcpus * 100);
    say(cpuNow, percent(last.cpu.percent));
    const used = last.memory.bytes;
    memory.update(samples.map((one) => one.memory.bytes), now.memoryMb * 1024 * 1024);
    say(memoryNow, used === null ? `of ${megabytes(now.memoryMb)}` : `${bytes(used)} of ${megabytes(now.memoryMb)}`);
  });

  function update(one) {
    now = one;
    say(from, one.image ?? one.templateId);
    say(state, one.status);
    state.className = `badge is-${one.status}`;
    say(ends, end(one));
    const alive = act.ALIVE.has(one.status);
    stop.hidden = one.status !== "running";
    go_on.hidden = one.status !== "paused";
    kill.hidden = !alive;
    meters.active(id, one.status === "running");
  }

  return { element, update, gone: () => meters.drop(id, element) };
}

/** When it ends, in few words. */
export function end(one) {
  if (one.endedAt) return `${one.endReason ?? "ended"} ${ago(one.endedAt)}`;
  if (one.expiresAt) return `in ${left(Date.parse(one.expiresAt) - Date.now())}`;
  return one.remainingMs ? `${left(one.remainingMs)} left` : "—";
}
