// The fields of a network policy, for a new sandbox and for one that runs.

import { area, choice, field, lines, text } from "./forms.js";
import { h } from "./dom.js";

const MODES = [
  ["public", "The internet"],
  ["allowlist", "Only what is allowed below"],
  ["off", "Nothing"],
];

/** `value()` is the member of a request; undefined where everything is left to the settings. */
export function policyFields(policy, prefix = "") {
  const first = policy ? [] : [["", "As this daemon has it"]];
  const mode = choice([...first, ...MODES], { value: policy?.mode ?? "" });
  const allow = area({ value: (policy?.allow ?? []).join("\n"), placeholder: "pypi.org\n*.example.com\n203.0.113.0/24" });
  const deny = area({ value: (policy?.deny ?? []).join("\n") });
  const ports = text({ value: (policy?.ports ?? []).join(", "), placeholder: "443, 8000-8099" });
  const lists = h(
    "div",
    { class: "grid" },
    field("Allowed", allow, { name: `${prefix}allow`, hint: "One a line: names, addresses, networks." }),
    field("Denied", deny, { name: `${prefix}deny`, hint: "The same." }),
    field("Ports", ports, { name: `${prefix}ports`, hint: "None: all. Else nothing else passes." }),
  );
  const look = () => (lists.hidden = mode.value === "off" || mode.value === "");
  mode.addEventListener("change", look);
  look();

  function value() {
    if (mode.value === "") return undefined;
    if (mode.value === "off") return { mode: "off" };
    const wanted = lines(ports).map((one) => (/^\d+$/.test(one) ? Number(one) : one));
    return { mode: mode.value, allow: lines(allow), deny: lines(deny), ports: wanted };
  }

  return { elements: [field("It reaches", mode, { name: `${prefix}mode` }), lists], value };
}
