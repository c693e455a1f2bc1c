// Compute seconds: by day, by sandbox, by key.

import { get, saveSmall } from "../api.js";
import { bars } from "../chart.js";
import { h, put } from "../dom.js";
import { choice, field } from "../forms.js";
import { duration, megabytes, moment, short } from "../format.js";
import { attempt, button, empty, facts, heading, into, section, table } from "../parts.js";

export const title = "Usage";
const DAY = 86_400_000;
const LINES = 100;

export function show({ place, signal }) {
  const days = choice([["7", "7 days"], ["30", "30 days"], ["90", "90 days"]], { value: "30" });
  const whole = h("div");
  const span = () => {
    const to = new Date(Date.now() + DAY);
    const from = new Date(to.getTime() - Number(days.value) * DAY);
    return `from=${day(from)}&to=${day(to)}`;
  };
  const draw = () => {
    const asked = span();
    into(whole, async () => {
      const [me, byDay, bySandbox, byKey] = await Promise.all([
        get("/me", { signal }).catch(() => null),
        ...["day", "sandbox", "key"].map((by) => get(`/usage?${asked}&by=${by}`, { signal })),
      ]);
      return [me && plan(me), chart(byDay, Number(days.value)), lines("By sandbox", bySandbox, "sandboxId"), lines("By key", byKey, "keyId")];
    });
  };
  const csv = button("As CSV", () => attempt(() => saveSmall(`/usage?${span()}&by=day&format=csv`, "usage.csv")));
  days.addEventListener("change", draw);
  put(place, heading("Usage", csv), h("div", { class: "toolbar" }, field("The last", days)), whole);
  draw();
}

function day(date) {
  return date.toISOString().slice(0, 10);
}

function seconds(count) {
  return duration(count * 1000).replace(/^0 ms$/, "0 s");
}

function plan({ plan: one, usage }) {
  const limit = usage.computeSecondsLimit;
  const used = limit === null ? seconds(usage.computeSeconds) : `${seconds(usage.computeSeconds)} of ${seconds(limit)}`;
  const bound = (value, words) => (value === null || value === undefined ? "—" : words(value));
  return section(
    `Plan: ${one.name}`,
    limit === null ? null : h("progress", { max: limit, value: Math.min(usage.computeSeconds, limit), "aria-label": "Used of the plan" }),
    facts([
      ["Used in this period", used],
      ["The period ends", moment(usage.periodEnd)],
      ["Sandboxes at once", bound(one.sandboxes, String)],
      ["Processors", bound(one.vcpus, String)],
      ["Memory", bound(one.memoryMb, megabytes)],
      ["Disk", bound(one.storageMb, megabytes)],
      ["Time of a sandbox", bound(one.timeoutMs, duration)],
    ]),
  );
}

/** A bar for each day, also for those on which nothing ran. */
function chart({ usage, computeSeconds }, count) {
  const known = new Map(usage.map((one) => [one.day, one.computeSeconds]));
  const all = Array.from({ length: count }, (_, index) => {
    const name = day(new Date(Date.now() - (count - 1 - index) * DAY));
    return [name, known.get(name) ?? 0];
  });
  const rows = all.filter(([, value]) => value > 0).map(([name, value]) => [name, h("span", { class: "number" }, seconds(value))]);
  return section(
    "By day",
    h("p", { class: "muted" }, `${seconds(computeSeconds)} in all. Paused time is not counted.`),
    bars("Compute time", all, seconds),
    rows.length > 0 && h("details", {}, h("summary", {}, "As a table"), table("By day", ["Day (UTC)", "Compute time"], rows)),
  );
}

function lines(name, { usage }, member) {
  if (usage.length === 0) return section(name, empty("Nothing", "Nothing ran in this time."));
  const rows = usage.toSorted((a, b) => b.computeSeconds - a.computeSeconds).slice(0, LINES);
  return section(name, table(name, ["Id", "Compute time"], rows.map((one) => [id(one[member]), h("span", { class: "number" }, seconds(one.computeSeconds))])));
}

function id(value) {
  if (value?.startsWith("sb_")) return h("a", { href: `#/sandbox/${value}`, class: "mono" }, short(value));
  return h("span", { class: "mono" }, value ?? "—");
}
