// What a sandbox uses, and what holds for it.

import { ask, get } from "../api.js";
import { chart } from "../chart.js";
import { h, put, set } from "../dom.js";
import { form } from "../forms.js";
import { bytes, clock, duration, megabytes, moment, percent } from "../format.js";
import { ALIVE } from "../actions.js";
import { facts, section, toast } from "../parts.js";
import { poll } from "../poll.js";
import { standbyFields } from "../standby.js";

export function overview(place, box) {
  const about = h("div");
  const draw = () => set(about, known(box.record));
  draw();
  box.changed.addEventListener("change", draw, { signal: box.signal });
  if (ALIVE.has(box.record.status)) put(place, metrics(box));
  put(place, section("About", about));
  if (ALIVE.has(box.record.status)) put(place, section("By itself", lifecycle(box)));
}

function known(one) {
  const held = one.limits ?? { enforced: [], notEnforced: [] };
  const words = facts([
    ["From", one.image ?? one.templateId],
    one.snapshotId ? ["Snapshot", h("span", { class: "mono" }, one.snapshotId)] : null,
    one.forkedFrom ? ["Forked from", h("a", { href: `#/sandbox/${one.forkedFrom}`, class: "mono" }, one.forkedFrom)] : null,
    ["Processors", one.vcpus],
    ["Memory", megabytes(one.memoryMb)],
    ["Disk", megabytes(one.storageMb), held.storage ? ` (${held.storage.backend})` : ""],
    ["Time", duration(one.timeoutMs)],
    ["Region", one.region],
    ["Created", moment(one.createdAt)],
    one.endedAt ? ["Ended", `${moment(one.endedAt)}, ${one.endReason}`] : null,
    one.oom?.kills ? ["Out of memory", `${one.oom.kills} times, last ${moment(one.oom.lastAt)}`] : null,
  ]);
  if (held.notEnforced.length === 0) return words;
  const missing = `This host does not hold ${held.notEnforced.join(", ")}: nothing stops the sandbox there.`;
  return [words, h("p", { class: "notice limits-note" }, missing)];
}

const SAMPLES = 240;

function metrics(box) {
  const cpu = chart("Processor", [""], percent);
  const memory = chart("Memory", [""], bytes);
  const disk = chart("Disk", [""], bytes);
  const network = chart("Network", ["in", "out"], (value) => `${bytes(value)}/s`);
  let samples = [];
  poll(
    async () => {
      const path = `/sandboxes/${box.id}/metrics${samples.length === 0 ? "" : "?history=false"}`;
      const found = await get(path, { signal: box.signal });
      samples = [...samples, ...(found.history ?? []), found.now].slice(-SAMPLES);
      const from = `since ${clock(samples[0].at)}`;
      const of = (pick) => samples.map(pick);
      cpu.update([of((one) => one.cpu.percent)], { most: box.record.vcpus * 100, from });
      memory.update([of((one) => one.memory.bytes)], { from });
      disk.update([of((one) => one.disk?.bytes ?? null)], { from });
      network.update([rates((one) => one.receivedBytes), rates((one) => one.sentBytes)], { from });
    },
    { signal: box.signal, every: 4000 },
  );

  /** What went through a second, from counters. */
  function rates(pick) {
    return samples.map((one, index) => {
      const last = samples[index - 1];
      if (!last || !one.network || !last.network) return index === 0 && one.network ? 0 : null;
      const seconds = (Date.parse(one.at) - Date.parse(last.at)) / 1000;
      return seconds > 0 ? Math.max(0, pick(one.network) - pick(last.network)) / seconds : 0;
    });
  }

  return section("Use", h("div", { class: "charts" }, cpu.element, memory.element, disk.element, network.element));
}

function lifecycle(box) {
  const fields = standbyFields(box.record);
  return form(fields.elements, "Save", async () => {
    await ask("PUT", `/sandboxes/${box.id}/lifecycle`, { body: fields.value() });
    toast("Saved");
    box.refresh();
  }, { kind: "" });
}
