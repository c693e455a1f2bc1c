// Requests to the API, with the key in the Authorization header, as every other client's.

import { session } from "./session.js";

const HERE = new URL(".", document.baseURI);
/** Where the API is, for people and for requests. */
export const ROOT = new URL("api/v1", HERE).href;

/** What went wrong, as the daemon tells it. `field` is the member of the request that is at fault. */
export class Problem extends Error {
  constructor(status, told) {
    super(told.detail ?? told.title ?? `The daemon answered ${status}`);
    this.status = status;
    this.code = told.code ?? "unknown";
    this.field = told.field ?? null;
    this.remedy = told.remedy ?? null;
    this.told = told;
  }
}

function headers(more) {
  const found = { Authorization: `Bearer ${session.key}`, ...more };
  if (session.tenant) found["Nsbox-User"] = session.tenant.id;
  return found;
}

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Something between us and the daemon answered.
  }
  return failed(response.status, told);
}

function failed(status, told) {
  const problem = new Problem(status, told);
  if (problem.code === "invalid_key" || problem.code === "missing_key") {
    window.dispatchEvent(new CustomEvent("nsbox:refused", { detail: problem }));
  }
  return problem;
}

async function send(method, path, { body, signal, head } = {}) {
  const asked = { method, signal, headers: headers(head), cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    asked.body = JSON.stringify(body);
    asked.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(ROOT + path, asked);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "unreachable", detail: "The daemon cannot be reached." });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** A request; its answer as an object. */
export async function ask(method, path, options) {
  return (await send(method, path, options)).json();
}

export const get = (path, options) => ask("GET", path, options);
export const post = (path, body = {}, options = {}) => ask("POST", path, { ...options, body });
export const remove = (path, options) => ask("DELETE", path, options);

async function blob(path) {
  return (await send("GET", path)).blob();
}

/** Server-sent events: `{kind, data, id}`, until the answer ends. */
export async function* events(method, path, options = {}) {
  const head = { Accept: "text/event-stream", ...options.head };
  const response = await send(method, path, { ...options, head });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event?.kind === "problem") throw failed(event.data.status ?? 500, event.data);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const event = { kind: "message", data: null, id: null };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event.kind = line.slice(7);
    else if (line.startsWith("data: ")) event.data = JSON.parse(line.slice(6));
    else if (line.startsWith("id: ")) event.id = Number(line.slice(4));
  }
  return event.data === null ? null : event;
}

/** Send a file as it is. fetch cannot tell how far it is, so this is the older way. */
export function upload(method, path, file, { signal, progress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, ROOT + path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => progress?.(event.loaded, event.total));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(request.response);
      else reject(failed(request.status, request.response ?? {}));
    });
    request.addEventListener("error", () =>
      reject(new Problem(0, { code: "unreachable", detail: "The connection was lost." })),
    );
    request.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/**
 * Have the browser save what `plain` answers, under a name. The address it is given has a ticket in it, for this one
 * download; the file goes to disk as it comes, of whatever size. A key that may only read is given no ticket: then it
 * goes through memory.
 */
export async function save(ticket, plain, name) {
  try {
    const { path } = await post(ticket);
    offer(new URL(path.slice(1), HERE).href, name);
  } catch (error) {
    if (error.status !== 403) throw error;
    await saveSmall(plain, name);
  }
}

/** The same, through memory: for what is small. */
export async function saveSmall(path, name) {
  const address = URL.createObjectURL(await blob(path));
  offer(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function offer(address, name) {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

/** A WebSocket to a process, by a ticket. */
export async function attach(sandboxId, processId, offset) {
  const process = `/sandboxes/${sandboxId}/processes/${processId}`;
  const { protocols } = await post(`${process}/ticket`, { origin: location.origin });
  const address = new URL(`${ROOT}${process}/attach?offset=${offset}`);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(address, protocols);
}

/** A key for requests that may be sent twice. (`randomUUID` is for secure contexts only.) */
export function once() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
