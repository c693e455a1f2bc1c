// What runs in a sandbox, and what it says.

import { events, get, post, remove } from "../api.js";
import { h, keyed, put, say, set } from "../dom.js";
import { area, field, form, number, numeric, text, tick, variables } from "../forms.js";
import { ago, duration, plain, visible } from "../format.js";
import { attempt, badge, button, empty, section, toast, trouble } from "../parts.js";
import { poll } from "../poll.js";
import { sure } from "../dialogs.js";

export function processes(place, box) {
  const base = `/sandboxes/${box.id}`;
  const list = h("div", { class: "stack" });
  const nothing = h("div");
  const logs = h("div");
  const ended = tick("Ended ones, too");
  const known = new Map();
  let follower = null;

  const again = poll(
    async () => {
      const found = await get(`${base}/processes${ended.box.checked ? "?all=true" : ""}`, { signal: box.signal });
      keyed(list, known, found.toReversed(), (one) => one.id, row);
      set(nothing, found.length === 0 && empty("Nothing runs", "Start something below, or in a terminal."));
      return true;
    },
    { signal: box.signal, every: 3000, failed: (problem) => problem && set(nothing, trouble(problem)) },
  );
  ended.box.addEventListener("change", again);

  function row(first) {
    const state = badge(first.status);
    const about = h("span", { class: "muted small" });
    const command = Array.isArray(first.command) ? first.command.join(" ") : first.command;
    const end = button("End", async () => {
      await attempt(() => remove(`${base}/processes/${first.id}`), "Ended");
      again();
    }, { kind: "small quiet danger", label: `End ${command.slice(0, 60)}` });
    const element = h(
      "div",
      { class: "transfer" },
      h("div", {}, h("div", { class: "command" }, visible(command)), about),
      state,
      h("div", { class: "actions" }, button("Output", () => follow(first), { kind: "small", label: `Output of ${command.slice(0, 60)}` }), end),
    );
    const update = (one) => {
      const how = one.status === "running" ? null : (one.signal ?? `exit ${one.exitCode}`);
      say(state, how ?? one.status);
      state.className = `badge is-${one.status}`;
      const took = one.durationMs === undefined ? `started ${ago(one.startedAt)}` : `took ${duration(one.durationMs)}`;
      say(about, [one.pid && `pid ${one.pid}`, one.kind, one.cwd, took].filter(Boolean).join(" · "));
      say(end, one.status === "running" ? "End" : "Forget");
    };
    return { element, update };
  }

  function follow(process) {
    follower?.abort();
    follower = new AbortController();
    const log = new Log();
    const close = button("Close", () => {
      follower.abort();
      set(logs);
    }, { kind: "small quiet" });
    const command = Array.isArray(process.command) ? process.command.join(" ") : process.command;
    set(logs, section(`Output of ${visible(command).slice(0, 80)}`, log.element, h("div", { class: "buttons" }, close)));
    read(`${base}/processes/${process.id}/logs?follow=true`, log, AbortSignal.any([follower.signal, box.signal]));
  }

  put(
    place,
    section("Run a command", run(base, again)),
    h("div", { class: "toolbar" }, ended.element, button("End all", async () => {
      if (!(await sure("End all processes?", "Everything in the sandbox but the sandbox itself.", "End them"))) return;
      await attempt(() => remove(`${base}/processes`), "Ended");
      again();
    }, { kind: "small quiet danger" })),
    list,
    nothing,
    logs,
  );
}

const KEPT = 4000;
const OUTCOMES = {
  timedOut: "its time was over",
  oom: "it ran out of memory",
  storageFull: "its disk was full",
  sandboxGone: "the sandbox has ended",
};

/** The newest lines of an output. */
class Log {
  constructor() {
    this.element = h("pre", { class: "log", tabindex: "0", role: "log", "aria-label": "Output" });
  }

  add(words, kind) {
    const bottom = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    put(this.element, h("span", { class: kind }, plain(words)));
    while (this.element.childElementCount > KEPT) this.element.firstElementChild.remove();
    if (bottom) this.element.scrollTop = this.element.scrollHeight;
  }
}

/** Follow an output, across lost connections: the offset behind what was read is enough to go on. */
async function read(path, log, signal) {
  let offset = 0;
  for (let tries = 0; !signal.aborted; tries += 1) {
    try {
      for await (const event of events("GET", `${path}&offset=${offset}`, { signal })) {
        tries = 0;
        if (event.id !== null) offset = event.id;
        if (event.kind === "stdout" || event.kind === "stderr") log.add(event.data.data, event.kind);
        else if (event.kind === "dropped") log.add("\n[what was here is kept no longer]\n", "note");
        else if (event.kind === "exit") {
          log.add(`\n[ended: ${event.data.signal ?? event.data.exitCode}]\n`, "note");
          return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status && error.status !== 503) {
        log.add(`\n[${error.message}]\n`, "note");
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(250 * 2 ** tries, 8000)));
  }
}

function run(base, again) {
  const command = area({ rows: 2, placeholder: "python3 -c 'print(2+2)'" });
  const cwd = text({ placeholder: "/root" });
  const result = h("div", { "aria-live": "polite" });
  const env = area({ rows: 2, placeholder: "NAME=value" });
  const time = number({ min: 1, placeholder: "30" });
  const wish = () => ({ command: command.value, cwd: cwd.value.trim() || undefined, env: variables(env, "env") });
  const background = button("Start in the background", () => attempt(async () => {
    await post(`${base}/processes`, wish());
    toast("It runs");
    again();
  }));
  return [
    form(
      [
        field("Command", command, { name: "command", hint: "For the sandbox's shell." }),
        h(
          "details",
          {},
          h("summary", {}, "Folder, variables, time"),
          h(
            "div",
            { class: "stack" },
            field("Folder", cwd, { name: "cwd" }),
            field("Variables", env, { name: "env", hint: "One a line." }),
            field("Time (seconds)", time, { name: "timeoutMs", hint: "Then it is killed. What runs in the background has no end." }),
          ),
        ),
      ],
      "Run",
      async () => {
        const done = await post(`${base}/exec`, { ...wish(), timeoutMs: numeric(time, 1000) });
        const how = OUTCOMES[done.outcome] ?? (done.signal ? `ended by ${done.signal}` : `exit ${done.exitCode}`);
        const log = new Log();
        if (done.stdout) log.add(done.stdout, "stdout");
        if (done.stderr) log.add(done.stderr, "stderr");
        if (done.truncated) log.add("\n[there was more]\n", "note");
        set(result, h("p", { class: "muted small" }, `${how}, ${duration(done.durationMs)}`), log.element);
      },
      { more: [background] },
    ),
    result,
  ];
}
