// Tabs (WAI-ARIA's pattern): one is in the tab order, the arrows move between them.

import { h, fresh } from "./dom.js";

/**
 * `tabs` are `[key, name]`. Gives the list and the panel; `choose(key)` marks one, `wanted(key)` is called when
 * somebody picks one.
 */
export function tablist(label, tabs, wanted) {
  const panel = h("div", { role: "tabpanel", id: fresh("panel"), tabindex: "0" });
  const buttons = new Map(
    tabs.map(([key, name]) => [
      key,
      h(
        "button",
        { type: "button", role: "tab", id: fresh("tab"), "aria-controls": panel.id, onclick: () => wanted(key) },
        name,
      ),
    ]),
  );
  const list = h("div", { role: "tablist", "aria-label": label }, ...buttons.values());
  list.addEventListener("keydown", (event) => {
    const all = [...buttons.values()];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = all.at(to % all.length);
    next.focus();
    next.click();
  });

  function choose(key) {
    for (const [one, element] of buttons) {
      const now = one === key;
      element.setAttribute("aria-selected", String(now));
      element.tabIndex = now ? 0 : -1;
      if (now) {
        panel.setAttribute("aria-labelledby", element.id);
        element.scrollIntoView?.({ block: "nearest", inline: "nearest" });
      }
    }
  }

  return { list, panel, choose };
}
