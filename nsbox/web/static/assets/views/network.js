// What a sandbox reaches, and what was refused to it.

import { ask, get } from "../api.js";
import { h, put, set } from "../dom.js";
import { form } from "../forms.js";
import { clock, visible } from "../format.js";
import { policyFields } from "../network.js";
import { empty, section, table, toast } from "../parts.js";
import { poll } from "../poll.js";

const REASONS = {
  policy: "its policy",
  inside: "a private address, the host or another sandbox",
  many: "too many connections",
  network: "the gateway",
  name: "its policy, by name",
};

export async function network(place, box) {
  const base = `/sandboxes/${box.id}/network`;
  const policy = await get(base, { signal: box.signal });
  const fields = policyFields(policy);
  const state = h("div");
  const log = h("div");
  const told = (one) =>
    set(state, one.enforced ? null : h("p", { class: "notice" }, `Nothing gets out at present: ${one.reason ?? "no network on this host"}.`));
  told(policy);
  put(
    place,
    state,
    section(
      "Policy",
      form(fields.elements, "Apply", async () => {
        told(await ask("PUT", base, { body: fields.value() }));
        toast("Applied, to open connections as well");
      }),
    ),
    section("Refused", log),
  );
  let before = "";
  poll(
    async () => {
      const { entries } = await get(`${base}/log`, { signal: box.signal });
      const now = JSON.stringify(entries);
      if (now === before) return false;
      before = now;
      if (entries.length === 0) set(log, empty("Nothing was refused", "What the sandbox tries to reach, and may not, is listed here."));
      else set(log, table("Refused", ["When", "To", "Because of"], entries.toReversed().map(row)));
      return true;
    },
    { signal: box.signal, every: 3000 },
  );
}

function row(one) {
  const target = [one.name && visible(one.name), one.address && (one.port ? `${one.address} port ${one.port}` : one.address)];
  return [clock(one.at), h("span", { class: "mono" }, `${target.filter(Boolean).join(", ")} ${one.protocol}`), REASONS[one.reason] ?? one.reason];
}
