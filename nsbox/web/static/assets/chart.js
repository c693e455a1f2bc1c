// Charts: lines in SVG. What they show is also there as words, for who does not see them.

import { h, s, say, set } from "./dom.js";

const WIDE = 100;
const HIGH = 30;

function points(values, most) {
  const step = values.length > 1 ? WIDE / (values.length - 1) : 0;
  const runs = [[]];
  values.forEach((value, index) => {
    if (value === null || value === undefined) runs.push([]);
    else runs.at(-1).push([index * step, HIGH - 1 - (Math.min(value, most) / most) * (HIGH - 2)]);
  });
  return values.length > 1 ? runs.filter((run) => run.length > 0) : []; // of one value there is no line yet
}

function path(run) {
  const [first, ...rest] = run;
  const more = rest.length > 0 ? rest : [[first[0] + 0.5, first[1]]];
  return `M${first.map(round)}` + more.map((one) => `L${one.map(round)}`).join("");
}

function round(value) {
  return value.toFixed(2);
}

function area(run) {
  return `${path(run)}L${round(Math.max(run.at(-1)[0], run[0][0] + 0.5))},${HIGH}L${round(run[0][0])},${HIGH}Z`;
}

function draw(svg, series, most) {
  const shapes = series.flatMap((values, index) =>
    points(values, most).flatMap((run) => [
      index === 0 ? s("path", { class: "fill", d: area(run) }) : null,
      s("path", { class: `line line-${index}`, d: path(run), "vector-effect": "non-scaling-stroke" }),
    ]),
  );
  set(svg, shapes);
}

function surface(kind) {
  return s("svg", {
    class: kind,
    viewBox: `0 0 ${WIDE} ${HIGH}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
    focusable: "false",
  });
}

/** A line of some 80 by 20 pixels, without words. */
export function spark() {
  const svg = surface("spark");
  return { element: svg, update: (values, most) => draw(svg, [values], Math.max(most, 1e-9)) };
}

/**
 * A chart with a name, the newest value, and the scale. `series` are lists of values, `names` what they are called.
 */
export function chart(title, names, format) {
  const svg = surface("chart");
  const now = h("span", { class: "now" });
  const top = h("span", { class: "scale" });
  const since = h("span", {});
  const element = h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, h("span", { class: "name" }, title), now),
    svg,
    h("div", { class: "under" }, since, top),
  );
  function update(series, { most = 0, from = "" } = {}) {
    const known = series.flat().filter((value) => value !== null && value !== undefined);
    const scale = Math.max(most, ...known, 1e-9);
    draw(svg, series, scale);
    const last = series.map((values) => values.at(-1) ?? null);
    say(now, last.map((value, index) => (names[index] ? `${names[index]} ` : "") + format(value)).join(" · "));
    const why = series[0].length < 3 ? "measuring…" : "not measured on this host";
    say(top, known.length > 0 ? `up to ${format(scale)}` : why);
    say(since, from);
  }
  return { element, update };
}

/** Bars, one for each `[label, value]`. */
export function bars(title, pairs, format) {
  const most = Math.max(...pairs.map(([, value]) => value), 1e-9);
  const each = WIDE / Math.max(pairs.length, 1);
  const svg = surface("chart bars");
  set(
    svg,
    pairs.map(([, value], index) => {
      const height = (value / most) * (HIGH - 2);
      return s("rect", {
        x: round(index * each + each * 0.1),
        y: round(HIGH - height),
        width: round(each * 0.8),
        height: round(Math.max(height, value > 0 ? 0.4 : 0)),
      });
    }),
  );
  return h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, h("span", { class: "name" }, title), h("span", { class: "now" }, `most ${format(most)}`)),
    svg,
    h("div", { class: "under" }, h("span", {}, pairs[0]?.[0] ?? ""), h("span", {}, pairs.at(-1)?.[0] ?? "")),
  );
}
