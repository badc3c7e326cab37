/**
 * Headgate in a browser or in Node 18 and later: POST streams that survive a broken line, and cancel. No dependencies.
 *
 *   import { stream } from "https://your-gateway/headgate.js";
 *   for await (const event of stream("/v1/chat/completions", { body: { model, messages } })) show(event.text);
 *
 * Law: every frame once, in order, or an error. Frames are counted as they come; a line that breaks is taken up behind
 * the last one. The stream's id is chosen here, so that even a request whose answer never arrived is found again.
 */

const PATHS = {
  native: "/api/streaming/chat",
  openai: "/v1/chat/completions",
  openai_completions: "/v1/completions",
  openai_responses: "/v1/responses",
  anthropic: "/v1/messages",
  ollama: "/api/chat",
};
const LAST = new Set([
  "message_stop", "complete_state", "error", "response.completed", "response.incomplete", "response.failed",
]);
const LATER = new Set([408, 416, 425, 429, 500, 502, 503, 504]);
const DEFAULTS = { attempts: 12, backoff: 250, maxBackoff: 10_000, silence: 60_000, onDisconnect: "grace=60s" };
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

/** Anything that ends a stream before its end. `code` is the gateway's, or one of: `connection_lost`, `not_a_stream`,
 *  `out_of_order`. `status` is the HTTP status, 0 where there was none. */
export class HeadgateError extends Error {
  constructor(code, message, more = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = new.target.name;
    this.code = code;
    this.status = more.status ?? 0;
    this.streamId = more.streamId ?? "";
    this.received = more.received ?? 0;
    this.retryable = more.retryable ?? false;
    this.retryAfter = more.retryAfter ?? null;
    this.body = more.body ?? null;
  }
}

/** The stream is not there (404) or no longer kept (410): there is nothing to go on with. */
export class StreamGoneError extends HeadgateError {}

/** The answer itself failed: its protocol's error frame came. `event` is that frame. */
export class StreamFailedError extends HeadgateError {
  constructor(code, message, more) {
    super(code, message, more);
    this.event = more.event;
  }
}

/** An id for a stream: `st_` and 32 characters, milliseconds first. It names a stream and is no credential. */
export function newStreamId() {
  const bytes = new Uint8Array(20);
  let now = Date.now();
  for (let i = 5; i >= 0; i--, now = Math.floor(now / 256)) bytes[i] = now % 256;
  const rest = bytes.subarray(6);
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(rest);
  else for (let i = 0; i < rest.length; i++) rest[i] = Math.random() * 256; // Node 18 hides it in a module
  let text = "", held = 0, bits = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) text += ALPHABET[(held >> (bits - 5)) & 31];
    held &= 31;
  }
  return "st_" + text;
}

/** POST a request and read its stream, through as many connections as it takes. */
export function stream(url, options = {}) {
  const target = new URL(url, here());
  if (options.protocol && target.pathname === "/") {
    if (!PATHS[options.protocol]) throw new TypeError(`no path is known for the protocol ${options.protocol}`);
    target.pathname = PATHS[options.protocol];
  }
  return new HeadgateStream({ ...options, target, id: options.id || newStreamId(), received: 0, known: false });
}

/** Read a stream that exists: from the beginning, or behind the first `after` frames. */
export function attach(id, options = {}) {
  const target = new URL(options.base ?? "/", here());
  return new HeadgateStream({ ...options, target, id, received: options.after ?? 0, known: true });
}

/** Stop a stream at its source, wherever it runs. Resolves to `{streamId, state, receipt?}`; ended ones too. */
export async function cancel(id, options = {}) {
  const response = await (options.fetch ?? fetch)(addressOf(id, new URL(options.base ?? "/", here())), {
    method: "DELETE", headers: options.headers, credentials: options.credentials, signal: options.signal,
  });
  if (!response.ok) throw await refusal(response, { streamId: id });
  return response.json();
}

/** One stream: iterate it once, or `await text()`. */
export class HeadgateStream {
  #options;
  #begun = false;

  constructor(options) {
    this.#options = { ...DEFAULTS, ...options };
    this.id = options.id;
    /** Frames received so far: what `attach(id, {after})` goes on from. */
    this.received = options.received;
    /** Connections made so far. */
    this.connections = 0;
  }

  /** Stop it at its source. Frames that are on their way still come, and the protocol's own ending. */
  cancel() {
    const { target, headers, credentials, fetch } = this.#options;
    return cancel(this.id, { base: target, headers, credentials, fetch });
  }

  /** Read it all; the text of the answer. */
  async text() {
    let text = "";
    for await (const event of this) text += event.text;
    return text;
  }

  [Symbol.asyncIterator]() {
    if (this.#begun) throw new TypeError("a stream is read once; attach() reads it again");
    this.#begun = true;
    return this.#events();
  }

  async *#events() {
    const road = new Road(this.#options, this);
    let fruitless = 0;
    for (;;) {
      const before = this.received;
      const found = await road.connect();
      if (found.complete) return;
      let lost = found.problem;
      if (found.response) {
        try {
          for await (const frame of road.frames(found)) {
            const event = this.#event(frame);
            if (event === null) continue;
            this.#options.onEvent?.(event);
            const failure = failureOf(event);
            if (failure) throw new StreamFailedError(...failure, this.#facts({ event }));
            yield event;
            if (isLast(event)) return;
          }
        } catch (problem) {
          if (problem instanceof HeadgateError) throw problem;
          this.#options.signal?.throwIfAborted();
          lost = problem;
        } finally {
          found.close();
        }
      }
      if (road.final) throw this.#lost(lost);
      const patient = found.response !== undefined && found.quiet(); // a model that thinks for long
      fruitless = this.received > before || patient || offline() ? 0 : fruitless + 1;
      if (fruitless >= this.#options.attempts) throw this.#lost(lost);
      await pause(delayOf(fruitless, found.retryAfter, this.#options), this.#options.signal);
    }
  }

  /** A frame as an event; null for one that was had before. */
  #event(frame) {
    const numbered = frame.id.startsWith(this.id + ".") ? Number(frame.id.slice(this.id.length + 1)) : 0;
    if (numbered && numbered <= this.received) return null;
    if (numbered && numbered !== this.received + 1) {
      throw new HeadgateError("out_of_order", `frame ${numbered} came after ${this.received}`, this.#facts());
    }
    this.received += 1;
    const data = parsed(frame.data);
    const type = frame.event || (typeof data?.type === "string" ? data.type : "");
    return { seq: this.received, id: frame.id, type, data, raw: frame.data, text: textOf(type, data) };
  }

  #facts(more = {}) {
    return { streamId: this.id, received: this.received, ...more };
  }

  #lost(cause) {
    if (cause instanceof HeadgateError) return cause;
    const text = `the connection was lost after ${this.received} frames`;
    return new HeadgateError("connection_lost", text, this.#facts({ cause, retryable: true }));
  }
}

/** The way to one stream: a POST until it is known to exist, then GETs of what is missing. */
class Road {
  constructor(options, state) {
    this.options = options;
    this.state = state;
    this.known = options.known; // the gateway has this stream: it is never asked for again
    this.unsure = false; // a request was sent and nothing heard of it
    this.final = false; // it cannot be gone on with
    this.address = addressOf(state.id, options.target);
  }

  /** {complete}, {problem, retryAfter} or {response}. Throws what no repetition helps. */
  async connect() {
    this.options.signal?.throwIfAborted();
    const line = new Line(this.options);
    this.state.connections += 1;
    try {
      const response = await this.#ask(line);
      if (response !== null) return line.is({ response });
      line.close();
      return line.is({ complete: true });
    } catch (problem) {
      line.close();
      this.options.signal?.throwIfAborted();
      if (problem instanceof HeadgateError && !problem.retryable) throw problem;
      if (!(problem instanceof HeadgateError) && !this.known) this.unsure = true;
      return line.is({ problem, retryAfter: problem.retryAfter ?? null });
    }
  }

  async #ask(line) {
    if (this.known || this.unsure) {
      const response = await this.#get(line);
      if (response !== undefined) return response;
      this.unsure = false; // it never arrived: ask (again), under the same id
    }
    const response = await this.#post(line);
    return response === undefined ? this.#get(line) : response;
  }

  async #post(line) {
    const { options, state } = this;
    const before = this.tried;
    this.tried = true;
    const headers = new Headers({ "Content-Type": "application/json", "X-Stream-On-Disconnect": options.onDisconnect });
    new Headers(options.headers).forEach((value, name) => headers.set(name, value));
    headers.set("X-Stream-Id", state.id);
    const response = await line.fetch(options.target, { method: "POST", body: bodyOf(options.body), headers });
    if (response.status === 409 && before) {
      this.known = true; // ours: the first request did arrive
      return undefined;
    }
    if (response.ok) {
      this.known = true;
      this.final = response.headers.get("X-Stream-Resumable") === "false";
      this.#locate(response);
      return checked(response, state.id);
    }
    const problem = await refusal(response, { streamId: state.id });
    // A proxy's word, or a node that is going away: no stream of that name was begun, or it will be found under it.
    problem.retryable = [502, 503, 504].includes(response.status) && !response.headers.get("X-Stream-Id");
    if (problem.retryable) this.unsure = true;
    throw problem;
  }

  /** The rest of the stream; null: there is none; undefined: there is no such stream, which is no surprise. */
  async #get(line) {
    const { options, state } = this;
    const address = new URL(this.address);
    address.searchParams.set("protocol", (options.known && options.protocol) || "origin");
    if (state.received) address.searchParams.set("after", String(state.received));
    const headers = new Headers(options.headers);
    headers.delete("Content-Type");
    const response = await line.fetch(address, { method: "GET", headers });
    if (response.status === 204) return null;
    if (response.ok) {
      this.known = true;
      return checked(response, state.id);
    }
    if (response.status === 404 && !this.known) return undefined;
    const problem = await refusal(response, { streamId: state.id, received: state.received });
    problem.retryable = LATER.has(response.status);
    throw problem;
  }

  #locate(response) {
    const said = response.headers.get("Location");
    if (!said) return;
    const address = new URL(said, this.options.target);
    if (address.origin === this.options.target.origin) this.address = address; // credentials go nowhere else
  }

  async *frames({ response, touched }) {
    const parser = (response.headers.get("Content-Type") ?? "").includes("event-stream") ? new Sse() : new Lines();
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        touched();
        if (done) return;
        yield* parser.push(decoder.decode(value, { stream: true }));
      }
    } finally {
      reader.cancel().catch(() => {}); // a reader that left; the line is closed anyway
    }
  }
}

/** One connection: aborted with the caller's signal, and when nothing was heard for `silence` milliseconds. */
class Line {
  #controller = new AbortController();
  #timer;
  #silent = false;

  constructor(options) {
    this.options = options;
    this.leave = () => this.#controller.abort(options.signal.reason);
    options.signal?.addEventListener("abort", this.leave, { once: true });
  }

  fetch(address, init) {
    this.#touch();
    return (this.options.fetch ?? fetch)(address, {
      ...init, credentials: this.options.credentials, cache: "no-store", signal: this.#controller.signal,
    });
  }

  is(found) {
    return {
      retryAfter: null, ...found, touched: () => this.#touch(), close: () => this.close(), quiet: () => this.#silent,
    };
  }

  close() {
    clearTimeout(this.#timer);
    this.options.signal?.removeEventListener("abort", this.leave);
    this.#controller.abort();
  }

  #touch() {
    clearTimeout(this.#timer);
    if (!this.options.silence) return;
    this.#timer = setTimeout(() => { this.#silent = true; this.#controller.abort(); }, this.options.silence);
  }
}

/** Server-sent events: a frame is an event with data. */
class Sse {
  #rest = "";
  #frame = { id: "", event: "", data: [] };
  #line = /\r\n|\n|\r(?=[^])/g; // a CR at the very end may be half of CRLF

  *push(text) {
    const all = this.#rest + text;
    let from = 0;
    this.#line.lastIndex = 0;
    for (let end; (end = this.#line.exec(all)); from = this.#line.lastIndex) {
      const frame = this.#take(all.slice(from, end.index));
      if (frame) {
        const at = this.#line.lastIndex;
        yield frame;
        this.#line.lastIndex = at;
      }
    }
    this.#rest = all.slice(from);
  }

  #take(line) {
    const frame = this.#frame;
    if (line === "") {
      this.#frame = { id: "", event: "", data: [] };
      return frame.data.length ? { ...frame, data: frame.data.join("\n") } : null;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") frame.data.push(value);
    else if (name === "id" || name === "event") frame[name] = value;
    return null;
  }
}

/** NDJSON: a frame is a line that is not blank. */
class Lines {
  #rest = "";

  *push(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) if (line.trim()) yield { id: "", event: "", data: line.trim() };
  }
}

function textOf(type, data) {
  if (data === null || typeof data !== "object") return "";
  if (type === "token" || type === "message_chunk") return data.content ?? "";
  if (type === "content_block_delta") return data.delta?.type === "text_delta" ? data.delta.text : "";
  if (type === "response.output_text.delta") return data.delta ?? "";
  if (type) return "";
  if (Array.isArray(data.choices)) return data.choices[0]?.delta?.content ?? data.choices[0]?.text ?? "";
  if (Array.isArray(data.candidates)) {
    const parts = data.candidates[0]?.content?.parts ?? [];
    return parts.map((part) => (part.thought ? "" : part.text ?? "")).join("");
  }
  return data.message?.content ?? (typeof data.response === "string" ? data.response : "");
}

/** Whether a frame is its protocol's last. A protocol without one costs a request that is answered 204. */
function isLast({ type, data, raw }) {
  return raw === "[DONE]" || type === "done" || LAST.has(type) || (!type && data?.done === true);
}

/** [code, message] of an error frame, in any of the protocols; null for all others. */
function failureOf({ type, data }) {
  const error = data?.error ?? data?.response?.error ?? (type === "error" ? data : null);
  if (!error || (type && type !== "error" && type !== "response.failed")) return null;
  if (typeof error !== "object") return ["upstream_failed", String(error)];
  const code = error.code ?? error.type ?? "upstream_failed";
  return [String(code), error.message ?? "the stream failed"];
}

async function refusal(response, more) {
  const body = parsed(await response.text().catch(() => ""));
  const error = body?.error;
  const message = error?.message ?? (typeof error === "string" ? error : `the gateway answered ${response.status}`);
  const wait = Number(response.headers.get("Retry-After") || NaN);
  const facts = { ...more, status: response.status, body, retryAfter: Number.isFinite(wait) ? wait * 1000 : null };
  const code = String(error?.code ?? error?.type ?? error?.status ?? "http_" + response.status);
  return new (response.status === 404 || response.status === 410 ? StreamGoneError : HeadgateError)(code, message, facts);
}

function checked(response, streamId) {
  const kind = response.headers.get("Content-Type") ?? "";
  if (/event-stream|ndjson|jsonl/.test(kind) && response.body) return response;
  throw new HeadgateError("not_a_stream", `the answer is ${kind || "empty"}, not a stream`, { streamId, status: response.status });
}

function bodyOf(body) {
  if (body === undefined || body === null || typeof body !== "object") return body;
  const ordinary = Object.getPrototypeOf(body) === Object.prototype;
  return ordinary ? JSON.stringify({ stream: true, ...body }) : body;
}

function addressOf(id, base) {
  return new URL("/api/streaming/" + encodeURIComponent(id), base);
}

/** What relative addresses are relative to: the page, or the gateway this file came from. */
function here() {
  if (globalThis.location?.href?.startsWith("http")) return globalThis.location.href;
  return import.meta.url.startsWith("http") ? import.meta.url : undefined;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const offline = () => globalThis.navigator?.onLine === false;

/** Milliseconds to wait: as the gateway said, else doubled each time, with jitter so that a crowd does not return at once. */
function delayOf(fruitless, said, { backoff, maxBackoff }) {
  if (said !== null) return said + Math.random() * backoff;
  if (fruitless === 0 && !offline()) return Math.random() * backoff * 0.2;
  return (0.5 + Math.random() / 2) * Math.min(maxBackoff, backoff * 2 ** Math.min(fruitless, 20));
}

/** Wait, or until the machine is online again. Rejects when the signal aborts. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const end = (act) => () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      globalThis.removeEventListener?.("online", go);
      act();
    };
    const go = end(resolve), stop = end(() => reject(signal.reason)), timer = setTimeout(go, ms);
    signal?.addEventListener("abort", stop, { once: true });
    globalThis.addEventListener?.("online", go, { once: true });
    if (signal?.aborted) stop();
  });
}
