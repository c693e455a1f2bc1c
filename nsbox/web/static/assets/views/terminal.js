// Terminals of a sandbox. Each is a process that outlives the connection: whoever comes back finds what it showed.

import { attach, get, post, remove } from "../api.js";
import { ALIVE } from "../actions.js";
import { h, put, say, set } from "../dom.js";
import { attempt, button, empty } from "../parts.js";
import { openTerminal } from "../strict-xterm.js";
import { FitAddon } from "../vendor/addon-fit.mjs";

const SHELL = "if command -v bash >/dev/null; then exec bash; else exec sh; fi";
const CHUNK = 16 * 1024;
const WINDOW = 128 * 1024; // less than what the daemon takes before it cuts a client off
const KEYS = [["Esc", "\x1b"], ["Tab", "\t"], ["↑", "\x1b[A"], ["↓", "\x1b[B"], ["←", "\x1b[D"], ["→", "\x1b[C"]];
const NAMES = { "↑": "Up", "↓": "Down", "←": "Left", "→": "Right", Esc: "Esc key", Tab: "Tab key" };

export async function terminal(place, box) {
  const screen = h("div", { class: "screen" });
  const tabs = h("div", { class: "terminals" });
  const state = h("span", { class: "muted small", role: "status" });
  const leave = h("p", { class: "muted small" }, "The Tab key goes to the terminal; ", h("kbd", {}, "Ctrl+Shift+L"), " leaves it.");
  const keys = h("div", { class: "touch", role: "group", "aria-label": "Keys that a phone lacks" });
  put(place, tabs, screen, keys, leave);
  let view = null;
  let open = [];

  async function running() {
    const all = await get(`/sandboxes/${box.id}/processes`, { signal: box.signal });
    return all.filter((one) => one.kind === "terminal" && one.status === "running");
  }

  async function start() {
    const process = await post(
      `/sandboxes/${box.id}/processes`,
      { command: SHELL, terminal: { rows: 24, columns: 80 } },
      { signal: box.signal },
    );
    open = [...open, process];
    show(process);
  }

  function show(process) {
    view?.close();
    set(screen);
    view = new View(screen, box, process, tabs, (text) => say(state, text), () => over(process));
    touch(keys, view);
    draw(process);
    view.focus();
  }

  function over(process) {
    open = open.filter((one) => one.id !== process.id);
    draw(null);
  }

  function draw(current) {
    set(
      tabs,
      open.map((one, index) =>
        button(`Terminal ${index + 1}`, () => show(one), {
          kind: "small",
          "aria-pressed": String(one.id === current?.id),
        }),
      ),
      button("New terminal", () => attempt(start), { kind: "small" }),
      current && button("End this one", () => attempt(() => remove(`/sandboxes/${box.id}/processes/${current.id}`)), { kind: "small quiet" }),
      state,
    );
  }

  box.signal.addEventListener("abort", () => view?.close());
  if (box.record.status !== "running") {
    set(screen, empty(`The sandbox is ${box.record.status}`, "A terminal needs it running."));
    await untilRunning(box);
    set(screen);
  }
  open = await running();
  if (open.length > 0) show(open.at(-1));
  else await start();
}

function untilRunning(box) {
  return new Promise((resolve, reject) => {
    box.signal.addEventListener("abort", () => reject(new DOMException("left", "AbortError")));
    box.changed.addEventListener("change", () => box.record.status === "running" && resolve(), { signal: box.signal });
  });
}

function touch(keys, view) {
  const control = button("Ctrl", () => {
    view.control = !view.control;
    control.setAttribute("aria-pressed", String(view.control));
    view.focus();
  }, { kind: "small", "aria-pressed": "false" });
  view.released = () => control.setAttribute("aria-pressed", "false");
  set(
    keys,
    control,
    KEYS.map(([name, sent]) =>
      button(name, () => {
        view.type(sent);
        view.focus();
      }, { kind: "small", label: NAMES[name] }),
    ),
  );
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const probe = h("span", { class: "unseen" });
  put(document.body, probe);
  const of = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const dark = style.colorScheme.includes("dark") && (!style.colorScheme.includes("light") || matchMedia("(prefers-color-scheme: dark)").matches);
  const found = {
    background: dark ? "#0a0d10" : "#fbfcfc",
    foreground: of("--text"),
    cursor: of("--accent"),
    cursorAccent: dark ? "#0a0d10" : "#ffffff",
    selectionBackground: dark ? "#2b5a60" : "#bfe3e5",
  };
  const light = { black: "#182026", red: "#b3261e", green: "#17713f", yellow: "#835300", blue: "#1f5fbf", magenta: "#8a3fa8", cyan: "#0b6e75", white: "#55626d", brightBlack: "#55626d", brightRed: "#c8372e", brightGreen: "#1c8048", brightYellow: "#956000", brightBlue: "#2f6fd0", brightMagenta: "#9a4fb8", brightCyan: "#0f7d85", brightWhite: "#182026" };
  probe.remove();
  return dark ? found : { ...found, ...light };
}

class View {
  control = false;
  #offset = 0;
  #socket = null;
  #sent = 0;
  #taken = 0;
  #waiting = [];
  #ended = false;
  #tries = 0;
  #closed = new AbortController();

  constructor(screen, box, process, home, tell, over) {
    Object.assign(this, { box, process, tell, over });
    const mono = getComputedStyle(document.documentElement).getPropertyValue("--mono");
    const inner = h("div"); // without padding: what fits is counted from its size
    put(screen, inner);
    this.xterm = openTerminal(inner, {
      fontFamily: mono,
      fontSize: innerWidth < 600 ? 12 : 13,
      scrollback: 10_000,
      cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      theme: colours(),
      minimumContrastRatio: 4.5,
    });
    this.fit = new FitAddon();
    this.xterm.loadAddon(this.fit);
    this.xterm.onData((text) => this.type(text));
    this.xterm.onBinary((text) => this.#send(Uint8Array.from(text, (one) => one.charCodeAt(0))));
    this.xterm.onResize(() => this.#resize());
    this.xterm.attachCustomKeyEventHandler((event) => {
      if (!(event.ctrlKey && event.shiftKey && event.code === "KeyL")) return true;
      if (event.type === "keydown") home.querySelector("button")?.focus();
      event.preventDefault();
      return false;
    });
    const watcher = new ResizeObserver(() => this.fit.fit());
    watcher.observe(screen);
    const { signal } = this.#closed;
    signal.addEventListener("abort", () => watcher.disconnect());
    const recolour = () => (this.xterm.options.theme = colours());
    addEventListener("nsbox:theme", recolour, { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour, { signal });
    this.fit.fit();
    this.#connect();
  }

  focus() {
    this.xterm.focus();
  }

  close() {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#socket?.close();
    this.xterm.dispose();
  }

  type(text) {
    if (this.control) {
      this.control = false;
      this.released?.();
      if (/^[a-z@[\\\]^_]$/i.test(text)) text = String.fromCharCode(text.toUpperCase().charCodeAt(0) & 31);
    }
    this.#send(new TextEncoder().encode(text));
  }

  #send(data) {
    for (let at = 0; at < data.length; at += CHUNK) this.#waiting.push(data.subarray(at, at + CHUNK));
    this.#flush();
  }

  /** No more than the daemon is ready to hold: what is pasted waits here. */
  #flush() {
    while (this.#socket?.readyState === WebSocket.OPEN && this.#waiting.length > 0 && this.#sent - this.#taken < WINDOW) {
      const data = this.#waiting.shift();
      const frame = new Uint8Array(data.length + 1); // the byte 0: for stdin
      frame.set(data, 1);
      this.#socket.send(frame);
      this.#sent += data.length;
    }
  }

  #resize() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ type: "resize", rows: this.xterm.rows, columns: this.xterm.cols }));
  }

  async #connect() {
    if (this.#closed.signal.aborted || this.#ended) return;
    this.tell(this.#tries === 0 ? "Connecting…" : "Connecting again…");
    let socket;
    try {
      socket = await attach(this.box.id, this.process.id, this.#offset);
    } catch (problem) {
      if (problem.code === "process_not_found" || problem.code === "sandbox_gone") this.#end("It has ended.");
      else this.#later();
      return;
    }
    if (this.#closed.signal.aborted) {
      socket.close();
      return;
    }
    this.#socket = socket;
    this.#sent = this.#taken = 0;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      this.#tries = 0;
      this.tell("");
      this.#resize();
      this.#flush();
    });
    socket.addEventListener("message", ({ data }) => (typeof data === "string" ? this.#told(JSON.parse(data)) : this.#output(data)));
    socket.addEventListener("close", () => this.#later());
  }

  #later() {
    this.#socket = null;
    if (this.#closed.signal.aborted || this.#ended) return;
    this.#tries += 1;
    this.tell("The connection was lost; what runs goes on.");
    setTimeout(() => this.#connect(), Math.min(250 * 2 ** this.#tries, 10_000));
  }

  #output(data) {
    const offset = Number(new DataView(data).getBigUint64(1));
    const bytes = new Uint8Array(data, 9);
    this.#offset = offset + bytes.length;
    this.xterm.write(bytes);
  }

  #told(message) {
    if (message.type === "stdin") {
      this.#taken = message.taken;
      this.#flush();
    } else if (message.type === "dropped") {
      this.#offset = message.until;
      this.xterm.write("\r\n\x1b[2m[what was here is kept no longer]\x1b[0m\r\n");
    } else if (message.type === "problem") {
      this.tell(message.problem.detail);
    } else if (message.type === "exit") {
      const { exitCode, signal } = message.process;
      this.#end(signal ? `It was ended by ${signal}.` : `It has ended with ${exitCode}.`);
    }
  }

  #end(words) {
    this.#ended = true;
    this.xterm.options.disableStdin = true;
    this.xterm.options.cursorBlink = false;
    this.over();
    this.tell(words);
  }
}
