// The files of a sandbox. Names are a sandbox's, and may be anything: they are shown as text, what is invisible
// in them made visible.

import { ask, get, remove, save, upload } from "../api.js";
import { asked, dialog, sure } from "../dialogs.js";
import { h, put, set } from "../dom.js";
import { area, field, form, text } from "../forms.js";
import { ago, bytes, visible } from "../format.js";
import { attempt, button, empty, table, toast, trouble } from "../parts.js";
import { Path } from "../paths.js";

const EDITABLE = 1024 * 1024;
const SHOWN = 2000;

export function files(place, box) {
  const base = `/sandboxes/${box.id}/files`;
  let here = Path.of("/root");
  const trail = h("div", { class: "path", role: "group", "aria-label": "Folder" });
  const transfers = h("div");
  const list = h("div", { class: "files" });
  const chosen = h("input", { type: "file", multiple: true, class: "unseen", tabindex: "-1", "aria-label": "Files to upload" });
  chosen.addEventListener("change", () => {
    for (const file of chosen.files) send(file);
    chosen.value = "";
  });
  put(
    place,
    h(
      "div",
      { class: "toolbar" },
      trail,
      h(
        "div",
        { class: "actions" },
        button("Upload", () => chosen.click(), { kind: "small" }),
        chosen,
        button("New file", create, { kind: "small" }),
        button("Go to", jump, { kind: "small" }),
        button("Reload", () => open(here), { kind: "small quiet" }),
      ),
    ),
    transfers,
    list,
  );
  list.addEventListener("dragover", (event) => {
    event.preventDefault();
    list.classList.add("over");
  });
  list.addEventListener("dragleave", () => list.classList.remove("over"));
  list.addEventListener("drop", (event) => {
    event.preventDefault();
    list.classList.remove("over");
    for (const file of event.dataTransfer.files) send(file);
  });

  async function open(path) {
    let found;
    try {
      found = await get(`${base}?${path.query}&list=true`, { signal: box.signal });
    } catch (error) {
      if (error.name !== "AbortError") set(list, trouble(error));
      return;
    }
    here = path;
    set(trail, here.trail.map((one) => button(one.shown === "/" ? "/" : `${visible(one.name)}/`, () => open(one), { kind: "" })));
    for (const one of trail.children) one.className = "";
    const entries = found.entries.toSorted((a, b) => (b.type === "directory") - (a.type === "directory") || a.name.localeCompare(b.name));
    if (entries.length === 0) {
      set(list, empty("Nothing in here", "Drop files here, or make one."));
      return;
    }
    const more = entries.length > SHOWN || found.truncated;
    set(
      list,
      table("Files", ["Name", "Size", "Mode", "Changed", ""], entries.slice(0, SHOWN).map(row)),
      more && h("p", { class: "muted" }, `The first ${Math.min(SHOWN, entries.length)} are shown.`),
    );
  }

  function row(entry) {
    const path = Path.from(entry);
    const name = visible(entry.name);
    const folder = entry.type === "directory";
    const view = folder ? () => open(path) : () => look(path, entry);
    return [
      h(
        "bdi",
        {},
        h("button", { type: "button", class: `name ${folder ? "folder" : ""}`, onclick: view }, name),
        entry.target ? h("span", { class: "muted mono" }, ` → ${visible(entry.target)}`) : null,
      ),
      h("span", { class: "number" }, entry.type === "file" ? bytes(entry.size) : folder ? "" : entry.type),
      h("span", { class: "mono muted" }, entry.mode),
      h("span", { class: "muted small" }, ago(entry.mtime)),
      h(
        "div",
        { class: "actions" },
        entry.type === "file" && button("Download", () => download(path), { kind: "small quiet", label: `Download ${name}` }),
        button("Delete", () => drop(path, folder), { kind: "small quiet danger", label: `Delete ${name}` }),
      ),
    ];
  }

  /** Into a file as text, or through a link into its folder. */
  async function look(path, entry) {
    if (entry.type === "symlink") {
      const listed = await get(`${base}?${path.query}&list=true`, { signal: box.signal }).catch(() => null);
      if (listed) {
        open(path);
        return;
      }
    }
    if (entry.size > EDITABLE) {
      toast("This is too large to edit here; it is being downloaded.");
      download(path);
      return;
    }
    await attempt(async () => {
      const file = await get(`${base}?${path.query}`, { signal: box.signal });
      if (file.encoding === "utf8") edit(path, file.content);
      else if (await sure(visible(path.name), "This is no text.", "Download it", { kind: "primary" })) download(path);
    });
  }

  async function edit(path, content) {
    const text = area({ value: content, "aria-label": "Contents", wrap: "off" });
    const windows = content.includes("\r\n");
    const saved = await dialog(
      visible(path.shown),
      (close) => {
        const whole = form(
          [h("div", { class: "editor" }, text)],
          "Save",
          async () => {
            // A textarea turns every end of a line into one of Unix.
            const written = windows ? text.value.replace(/\n/g, "\r\n") : text.value;
            await ask("PUT", `${base}?${path.query}`, { body: { content: written } });
            close(true);
          },
          { more: [button("Close", () => close(false)), h("span", { class: "hint" }, "Ctrl+S saves")] },
        );
        text.addEventListener("keydown", (event) => {
          if ((event.ctrlKey || event.metaKey) && event.key === "s") {
            event.preventDefault();
            whole.requestSubmit();
          }
        });
        return whole;
      },
      { kind: "wide" },
    );
    if (saved) {
      toast("Saved");
      open(here);
    }
  }

  async function create() {
    const name = text({ placeholder: "notes.txt" });
    const path = await asked("New file", [field("Name", name, { name: "path", hint: `In ${visible(here.shown)}; folders on the way are made.` })], "Make it", async () => {
      const wanted = name.value.startsWith("/") ? Path.of(name.value) : here.child(name.value);
      await ask("PUT", `${base}?${wanted.query}`, { body: { content: "" } });
      return wanted;
    });
    if (!path) return;
    await open(here);
    edit(path, "");
  }

  async function jump() {
    const where = text({ value: here.shown });
    const path = await asked("Go to a folder", [field("Path", where, { name: "path" })], "Go", async () => {
      const wanted = Path.of(where.value);
      await get(`${base}?${wanted.query}&list=true`);
      return wanted;
    });
    if (path) open(path);
  }

  async function drop(path, folder) {
    const what = visible(path.shown);
    if (!(await sure("Delete?", folder ? `${what}, and all that is in it.` : what, "Delete"))) return;
    await attempt(() => remove(`${base}?${path.query}${folder ? "&recursive=true" : ""}`), "Deleted");
    open(here);
  }

  function download(path) {
    return attempt(() => save(`${base}/ticket?${path.query}`, `${base}?${path.query}&raw=true`, path.name));
  }

  async function send(file) {
    const giveUp = new AbortController();
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    const stop = button("Stop", () => giveUp.abort(), { kind: "small quiet", label: `Stop the upload of ${file.name}` });
    const line = h("div", { class: "transfer" }, h("span", {}, visible(file.name)), bar, stop);
    put(transfers, line);
    const path = here.child(file.name);
    const signal = AbortSignal.any([giveUp.signal, box.signal]);
    const progress = (done, all) => (bar.value = all ? done / all : 1);
    await attempt(() => upload("PUT", `${base}?${path.query}`, file, { signal, progress }), `${file.name} is there`);
    line.remove();
    open(here);
  }

  return open(here);
}
