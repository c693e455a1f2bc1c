// Numbers, times and names as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  if (count === null || count === undefined) return "—";
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function megabytes(count) {
  return bytes(count * 1024 * 1024);
}

export function percent(value) {
  if (value === null || value === undefined) return "—";
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** `1 h 5 min`, with two units at most. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "—";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

export function ago(iso) {
  if (!iso) return "never";
  const passed = Date.now() - Date.parse(iso);
  return passed < 5000 ? "just now" : `${duration(coarse(passed))} ago`;
}

/** What is left, in minutes where it is minutes: a countdown of seconds all over a page is no calm. */
export function left(ms) {
  if (ms <= 0) return "now";
  return duration(coarse(ms));
}

function coarse(ms) {
  if (ms >= 86_400_000) return Math.floor(ms / 3_600_000) * 3_600_000;
  return ms >= 120_000 ? Math.floor(ms / 60_000) * 60_000 : ms;
}

export function moment(iso) {
  if (!iso) return "—";
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

export function clock(iso) {
  return new Date(iso).toLocaleTimeString();
}

/** The beginning of an id, enough to tell it from others. */
export function short(id) {
  return id.length > 14 ? `${id.slice(0, 11)}…` : id;
}

// What moves the cursor, reverses the direction of text or cannot be seen could make one name look like another.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A name from a sandbox, with what is invisible in it made visible. */
export function visible(name) {
  return name.replace(HIDDEN, (found) => {
    const code = found.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// Control sequences of terminals (ECMA-48): CSI, OSC, and the two-byte ones.
const SEQUENCES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;

/** Output without what would colour a terminal. */
export function plain(text) {
  return text.replace(SEQUENCES, "").replace(/\r\n/g, "\n");
}

const encoder = new TextEncoder();

export function base64ToBytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function textToBytes(text) {
  return encoder.encode(text);
}

/** A path for a query. Names are bytes, and need not be UTF-8. */
export function percentEncoded(raw) {
  return Array.from(raw, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
}
