// Images and templates of this host.

import { events, get, post, remove, save } from "../api.js";
import { sure } from "../dialogs.js";
import { h, put, say, set } from "../dom.js";
import { field, form, text } from "../forms.js";
import { ago, bytes, short } from "../format.js";
import { attempt, badge, button, empty, go, heading, into, section, table, toast } from "../parts.js";

export const title = "Images";

export function show({ place, signal }) {
  const list = h("div");
  const templates = h("div");
  const draw = () => {
    into(list, () => images(signal, draw));
    into(templates, () => templated(signal));
  };
  const prune = button("Tidy up", () => attempt(async () => {
    const done = await post("/images/prune");
    toast(`${bytes(done.freedBytes)} are free again`);
    draw();
  }), { kind: "small" });
  put(place, heading("Images", prune), section("Pull an image", pull(signal, draw)), section("On this host", list), section("Templates", templates));
  draw();
}

async function images(signal, again) {
  const { images: found, disk } = await get("/images", { signal });
  if (found.length === 0) return empty("No images yet", "Pull one, or create a sandbox from one: it is pulled then.");
  const sum = `${bytes(disk.bytes)} on disk, ${bytes(disk.reclaimableBytes)} of it not needed by anybody.`;
  return [table("Images", ["Image", "Platform", "Size", "Pulled", ""], found.map((one) => row(one, again))), h("p", { class: "muted small" }, sum)];
}

function row(one, again) {
  const drop = async () => {
    const wanted = await sure(`Remove ${one.image}?`, "Sandboxes that stand on it go on.", "Remove");
    if (wanted && (await attempt(() => remove(`/images/${one.image}`), "Removed"))) again();
  };
  const asked = `?image=${encodeURIComponent(one.image)}`;
  const file = `${one.image.replace(/[^\w.-]+/g, "_")}.tar`;
  const out = () => save(`/images/export/ticket${asked}`, `/images/export${asked}`, file);
  return [
    h("div", {}, h("div", { class: "mono" }, one.image), h("div", { class: "muted small mono" }, short(one.digest.replace("sha256:", "")))),
    one.platform,
    h("span", { class: "number" }, bytes(one.sizeBytes)),
    ago(one.pulledAt),
    h(
      "div",
      { class: "actions" },
      go("New sandbox", `#/new/image/${encodeURIComponent(one.image)}`, "small"),
      button("Export", () => attempt(out, "The export has begun"), { kind: "small quiet", label: `Export ${one.image}` }),
      button("Remove", drop, { kind: "small quiet danger", label: `Remove ${one.image}` }),
    ),
  ];
}

async function templated(signal) {
  const found = await get("/templates", { signal });
  return table("Templates", ["Template", "Image", "State", ""], found.map((one) => [
    h("div", {}, h("div", { class: "mono" }, one.id), h("div", { class: "muted small" }, one.description)),
    h("span", { class: "mono" }, one.image ?? "—"),
    one.ready ? badge("ready") : h("span", { class: "muted" }, "pulled when first used"),
    h("div", { class: "actions" }, go("New sandbox", `#/new/template/${encodeURIComponent(one.id)}`, "small")),
  ]));
}

function pull(signal, again) {
  const name = text({ placeholder: "python:3.12-slim" });
  const how = h("div", { "aria-live": "polite" });
  return [
    form([field("Image", name, { name: "image", hint: "Of any registry. It goes on when you leave this page." })], "Pull", async () => {
      const progress = new Progress();
      set(how, progress.element);
      try {
        for await (const event of events("POST", "/images", { body: { image: name.value.trim() }, signal })) {
          if (event.kind === "progress") progress.tell(event.data);
        }
      } finally {
        set(how);
      }
      toast("The image is here");
      again();
    }),
    how,
  ];
}

/** A bar for each layer. */
class Progress {
  #layers = new Map();
  #stage = h("span", { class: "muted small" }, "asking the registry");

  constructor() {
    this.element = h("div", { class: "pull stack" }, this.#stage);
  }

  tell({ stage, layer, current, total }) {
    say(this.#stage, stage);
    if (!layer) return;
    if (!this.#layers.has(layer)) this.#layers.set(layer, this.#line(layer));
    const { bar, words } = this.#layers.get(layer);
    if (total) {
      bar.max = total;
      bar.value = current;
    } else {
      bar.removeAttribute("value");
    }
    say(words, `${stage} ${total ? `${bytes(current)} of ${bytes(total)}` : ""}`);
  }

  #line(layer) {
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Layer ${short(layer.replace("sha256:", ""))}` });
    const words = h("span", { class: "muted small" });
    put(this.element, h("div", { class: "transfer" }, h("span", { class: "mono small" }, short(layer.replace("sha256:", ""))), bar, words));
    return { bar, words };
  }
}
