// What many sandboxes use, asked for gently: only of rows that can be seen, two requests at a time and no more
// than four a second, whoever many there are. The first one of a sandbox brings its last hour.

import { get } from "./api.js";

const AGE = 12_000; // how old a value may be
const AT_ONCE = 2;
const GAP = 250;
const KEPT = 120;

export class Meters {
  #rows = new Map(); // id → {told, at, samples, seen}
  #working = 0;
  #timer;
  #watcher = new IntersectionObserver((entries) => {
    for (const one of entries) {
      const row = this.#rows.get(one.target.dataset.id);
      if (row) row.seen = one.isIntersecting;
    }
  });

  constructor(signal) {
    this.signal = signal;
    this.#timer = setInterval(() => this.#next(), GAP);
    signal.addEventListener("abort", () => {
      clearInterval(this.#timer);
      this.#watcher.disconnect();
    });
  }

  /** `told` is called with the samples, oldest first. */
  add(id, element, told) {
    element.dataset.id = id;
    this.#rows.set(id, { told, at: 0, samples: [], seen: false, active: true });
    this.#watcher.observe(element);
  }

  /** Whether there is anything to be asked: of what is paused or has ended, there is nothing new. */
  active(id, wanted) {
    const row = this.#rows.get(id);
    if (row) row.active = wanted;
  }

  drop(id, element) {
    this.#watcher.unobserve(element);
    this.#rows.delete(id);
  }

  #next() {
    if (document.hidden || this.#working >= AT_ONCE) return;
    const now = Date.now();
    let oldest = null;
    for (const [id, row] of this.#rows) {
      if (row.seen && row.active && now - row.at > AGE && (oldest === null || row.at < oldest[1].at)) oldest = [id, row];
    }
    if (oldest !== null) this.#ask(...oldest);
  }

  async #ask(id, row) {
    row.at = Date.now();
    this.#working += 1;
    try {
      const whole = row.samples.length === 0;
      const found = await get(`/sandboxes/${id}/metrics${whole ? "" : "?history=false"}`, { signal: this.signal });
      row.samples = [...row.samples, ...(found.history ?? []), found.now].slice(-KEPT);
      row.told(row.samples);
    } catch {
      // It has just ended, or the daemon is away; the list says so.
    } finally {
      this.#working -= 1;
    }
  }
}
