// A new sandbox.

import { get, once, post } from "../api.js";
import { h, put, set } from "../dom.js";
import { area, choice, field, form, number, numeric, text, variables } from "../forms.js";
import { ago, bytes } from "../format.js";
import { policyFields } from "../network.js";
import { go, heading, section, toast } from "../parts.js";
import { standbyFields } from "../standby.js";

export const title = "New sandbox";
const MINUTE = 60_000;

export async function show({ place, params, signal }) {
  const source = await sources(params, signal);
  const vcpus = number({ min: 1, placeholder: "1" });
  const memory = number({ min: 1, step: 256, placeholder: "512" });
  const storage = number({ min: 1, step: 256, placeholder: "1024" });
  const time = number({ min: 1, placeholder: "30" });
  const network = policyFields(null, "network.");
  const standby = standbyFields();
  const env = area({ placeholder: "NAME=value", rows: 4 });
  let request = { key: once(), wish: "" };

  async function submit() {
    const wish = {
      ...source.value(),
      vcpus: numeric(vcpus),
      memoryMb: numeric(memory),
      storageMb: numeric(storage),
      timeoutMs: numeric(time, MINUTE),
      network: network.value(),
      envVars: variables(env, "envVars"),
      ...changed(standby.value()),
    };
    // Pressed twice it is one sandbox; another wish is another request.
    const told = JSON.stringify(wish);
    if (told !== request.wish) request = { key: once(), wish: told };
    const made = await post("/sandboxes", wish, { head: { "Idempotency-Key": request.key } });
    toast("The sandbox runs");
    location.hash = `#/sandbox/${made.id}/terminal`;
  }

  const whole = form(
    [
      section("From", source.element),
      section(
        "Limits",
        h(
          "div",
          { class: "grid" },
          field("Processors", vcpus, { name: "vcpus" }),
          field("Memory (MiB)", memory, { name: "memoryMb" }),
          field("Disk (MiB)", storage, { name: "storageMb" }),
          field("Time (minutes)", time, { name: "timeoutMs", hint: "Then it ends; you can give it more later." }),
        ),
      ),
      section(
        "More",
        h("details", {}, h("summary", {}, "Network"), h("div", { class: "stack" }, network.elements)),
        h(
          "details",
          {},
          h("summary", {}, "Environment"),
          field("Variables for every command", env, { name: "envVars", hint: "One a line. They are never shown again." }),
        ),
        h("details", {}, h("summary", {}, "By itself"), h("div", { class: "stack" }, standby.elements)),
      ),
    ],
    "Create sandbox",
    submit,
    { more: [go("Cancel", "#/sandboxes")] },
  );
  put(place, heading("New sandbox"), whole);
}

/** Only what is not as it would be anyway: a host without cgroups refuses the rest. */
function changed(standby) {
  return {
    autoPause: standby.autoPause,
    onExpiry: standby.onExpiry === "kill" ? undefined : standby.onExpiry,
    autoResume: standby.autoResume || undefined,
  };
}

/** What it is made from: a template, an image, or a snapshot. */
async function sources(params, signal) {
  const [templates, snapshots] = await Promise.all([get("/templates", { signal }), get("/snapshots", { signal })]);
  const kinds = choice(
    [["template", "A template"], ["image", "An image of a registry"], ["snapshot", "A snapshot"]],
    { value: params[0] ?? "template" },
  );
  const chosen = templates.find((one) => one.default)?.id;
  const template = choice(
    templates.map((one) => [one.id, `${one.id}${one.ready ? "" : " (pulled first)"}`]),
    { value: params[0] === "template" ? params[1] : chosen },
  );
  const about = h("span", { class: "hint" });
  const describe = () => set(about, templates.find((one) => one.id === template.value)?.description ?? "");
  template.addEventListener("change", describe);
  describe();
  const image = text({ placeholder: "python:3.12-slim", value: params[0] === "image" ? params[1] : "" });
  const snapshot = choice(
    snapshots.toReversed().map((one) => [one.id, `${one.name || one.id.slice(0, 12)}, ${bytes(one.sizeBytes)}, ${ago(one.createdAt)}`]),
    { value: params[0] === "snapshot" ? params[1] : undefined },
  );
  const parts = {
    template: h("div", {}, field("Template", template, { name: "templateId" }), about),
    image: field("Image", image, { name: "image", hint: "One that is not here yet is pulled first, which takes a while." }),
    snapshot: field("Snapshot", snapshot, { name: "snapshot", hint: snapshots.length ? null : "You have none yet." }),
  };
  const look = () => {
    for (const [kind, part] of Object.entries(parts)) part.hidden = kind !== kinds.value;
  };
  kinds.addEventListener("change", look);
  look();

  function value() {
    if (kinds.value === "template") return { templateId: template.value };
    return kinds.value === "image" ? { image: image.value.trim() } : { snapshot: snapshot.value };
  }

  return { element: h("div", { class: "grid" }, field("Made from", kinds), ...Object.values(parts)), value };
}
