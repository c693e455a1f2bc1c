// Sign in with a key.

import { get } from "../api.js";
import { h, put } from "../dom.js";
import { field, form } from "../forms.js";
import { trouble } from "../parts.js";
import { session } from "../session.js";

export const title = "Sign in";

export function show({ place, problem, signedIn }) {
  const key = h("input", {
    type: "password",
    autocomplete: "current-password",
    autocapitalize: "none",
    spellcheck: "false",
    required: true,
    placeholder: "nsbox_…",
  });
  const whole = form([field("API key", key, { name: "key" })], "Sign in", async () => {
    const given = key.value.trim();
    if (given === "") throw Object.assign(new Error("Give a key."), { field: "key" });
    session.begin(given);
    try {
      await get("/sandboxes");
    } catch (error) {
      session.end();
      error.field = "key";
      throw error;
    }
    await signedIn();
  });
  put(
    place,
    h(
      "div",
      { class: "door" },
      h("h1", { tabindex: "-1" }, "Sign in to nsbox"),
      h("p", { class: "muted" }, "Isolated Linux environments on this host. The key stays in this tab, until you close it."),
      problem ? trouble(problem) : null,
      whole,
      h(
        "p",
        { class: "muted small" },
        "No key yet? On the host, ",
        h("code", {}, "nsbox keys create NAME"),
        " makes one. ",
        h("a", { href: "#/start" }, "Getting started"),
      ),
    ),
  );
  key.focus();
}
