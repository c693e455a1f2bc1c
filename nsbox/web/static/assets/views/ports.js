// Ports of a sandbox that can be visited.

import { get, post, remove } from "../api.js";
import { h, put, set } from "../dom.js";
import { asked } from "../dialogs.js";
import { choice, field, form, numeric, number, tick } from "../forms.js";
import { attempt, button, copy, empty, into, section, table } from "../parts.js";

export function ports(place, box) {
  const base = `/sandboxes/${box.id}/ports`;
  const list = h("div");
  const port = number({ min: 1, max: 65535, placeholder: "8080" });
  const open = tick("Everybody who knows the address may visit it", { checked: true });

  const show = () =>
    into(list, async () => {
      const found = await get(base, { signal: box.signal });
      if (found.length === 0) return empty("No port is open", "Start a server in the sandbox, on any address, and open its port.");
      return table("Open ports", ["Port", "Address", "For", ""], found.map(row));
    });

  function row(one) {
    return [
      h("span", { class: "number strong" }, one.port),
      address(one.url),
      one.public ? "everybody" : "those with a link",
      h(
        "div",
        { class: "actions" },
        !one.public && button("Make a link", () => link(one.port), { kind: "small" }),
        copy(() => one.url, `Copy the address of port ${one.port}`),
        button("Close", async () => {
          await attempt(() => remove(`${base}/${one.port}`), "Closed");
          show();
        }, { kind: "small quiet danger", label: `Close port ${one.port}` }),
      ),
    ];
  }

  async function link(number) {
    const time = choice([["3600", "1 hour"], ["86400", "1 day"], ["604800", "1 week"], ["2592000", "30 days"]]);
    const made = await asked(`A link to port ${number}`, [field("It is good for", time, { name: "expiresInS" })], "Make it", () =>
      post(`${base}/${number}/links`, { expiresInS: Number(time.value) }),
    );
    if (made) set(links, section("The link", address(made.url), " ", copy(() => made.url, "Copy the link")));
  }

  const links = h("div");
  const opened = form(
    [h("div", { class: "grid" }, field("Port", port, { name: "port" })), open.element],
    "Open",
    async () => {
      await post(base, { port: numeric(port), public: open.box.checked });
      port.value = "";
      show();
    },
  );
  put(place, section("Open a port", opened), links, section("Open ports", list));
  return show();
}

/** Only what is an address of the web is a link. */
function address(url) {
  if (!/^https?:\/\//.test(url)) return h("code", {}, url);
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer", class: "mono" }, url);
}
