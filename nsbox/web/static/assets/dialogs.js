// Dialogs: the browser's own <dialog>, which keeps the focus inside, closes with Escape and gives the focus back.

import { h, fresh, put } from "./dom.js";
import { form } from "./forms.js";
import { button } from "./parts.js";

/** Open a dialog. `fill(close)` gives what is in it. Resolves, when it is closed, to what `close` was given. */
export function dialog(title, fill, { kind = "" } = {}) {
  return new Promise((resolve) => {
    const id = fresh("dialog");
    const whole = h("dialog", { class: kind, "aria-labelledby": id });
    let answer;
    const close = (value) => {
      answer = value;
      whole.close();
    };
    put(whole, h("h2", { id }, title), fill(close));
    whole.addEventListener("close", () => {
      whole.remove();
      resolve(answer);
    });
    put(document.body, whole);
    whole.showModal();
    addEventListener("hashchange", () => whole.isConnected && whole.close(), { once: true });
  });
}

/** Ask before something that cannot be taken back. */
export function sure(title, detail, verb, { kind = "danger" } = {}) {
  return dialog(title, (close) => [
    h("p", {}, detail),
    h(
      "div",
      { class: "buttons" },
      button(verb, () => close(true), { kind }),
      button("Cancel", () => close(false), { autofocus: true }),
    ),
  ]);
}

/** A form in a dialog. `submit` does it; its problems are shown in the form, and its result is the answer. */
export function asked(title, fields, verb, submit) {
  return dialog(title, (close) =>
    form(fields, verb, async () => close((await submit()) ?? true), {
      more: [button("Cancel", () => close(undefined))],
    }),
  );
}
