// What a sandbox does by itself: fields for a new one and for one that is there.

import { choice, field, number, numeric, tick } from "./forms.js";
import { h } from "./dom.js";

const MINUTE = 60_000;

/** `value()` gives the members autoPause, onExpiry and autoResume. */
export function standbyFields(now = {}) {
  const idle = number({
    min: 0.1,
    step: "any",
    placeholder: "never",
    value: now.autoPause ? String(now.autoPause.idleMs / MINUTE) : "",
  });
  const ignore = tick("Processes in the background do not keep it awake", { checked: now.autoPause?.ignoreProcesses ?? false });
  const expiry = choice([["kill", "It is killed"], ["pause", "It is paused"]], { value: now.onExpiry ?? "kill" });
  const resume = tick("A request or a visit resumes it", { checked: now.autoResume ?? false });

  function value() {
    const idleMs = numeric(idle, MINUTE);
    return {
      autoPause: idleMs === undefined ? undefined : { idleMs, ignoreProcesses: ignore.box.checked },
      onExpiry: expiry.value,
      autoResume: resume.box.checked,
    };
  }

  const elements = [
    h(
      "div",
      { class: "grid" },
      field("Pause when idle for (minutes)", idle, { name: "autoPause", hint: "Empty: never." }),
      field("When its time is over", expiry, { name: "onExpiry" }),
    ),
    h("div", {}, ignore.element, resume.element),
  ];
  return { elements, value };
}
