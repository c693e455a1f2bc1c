// Paths in a sandbox. A name is bytes; where it is no UTF-8 the daemon gives its bytes beside it.

import { base64ToBytes, percentEncoded, textToBytes } from "./format.js";

/** A path: what to show, and what to ask with. */
export class Path {
  constructor(shown, raw) {
    this.shown = shown;
    this.raw = raw;
  }

  static of(text) {
    return new Path(text, textToBytes(text));
  }

  /** As an answer has it. */
  static from(view) {
    return new Path(view.path, view.pathBase64 ? base64ToBytes(view.pathBase64) : textToBytes(view.path));
  }

  get query() {
    return `path=${percentEncoded(this.raw)}`;
  }

  get name() {
    return this.shown.split("/").filter(Boolean).at(-1) ?? "/";
  }

  /** Something in this folder. */
  child(name) {
    const head = this.raw.at(-1) === 0x2f ? this.raw : [...this.raw, 0x2f];
    const shown = this.shown.endsWith("/") ? this.shown : `${this.shown}/`;
    return new Path(shown + name, Uint8Array.from([...head, ...textToBytes(name)]));
  }

  /** This and all folders above it, from the root. */
  get trail() {
    const found = [Path.of("/")];
    const names = this.shown.split("/").filter(Boolean);
    const ends = [];
    this.raw.forEach((byte, index) => byte === 0x2f && index > 0 && ends.push(index));
    ends.push(this.raw.length);
    let shown = "";
    names.forEach((name, index) => {
      shown += `/${name}`;
      found.push(new Path(shown, this.raw.slice(0, ends[index])));
    });
    return found;
  }
}
