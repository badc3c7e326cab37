/** Types of headgate.js: Headgate in a browser or in Node 18 and later. */

export type Protocol =
  | "native" | "ndjson" | "openai" | "openai_completions" | "openai_responses" | "anthropic" | "ollama" | "google";

/** One frame of a stream. */
export interface StreamEvent {
  /** Its number in the stream, from 1: the cursor of `attach(id, { after: seq })`. */
  readonly seq: number;
  /** The SSE id; "" where the protocol has none. */
  readonly id: string;
  /** The SSE event name, else the `type` inside the data, else "". */
  readonly type: string;
  /** The data, decoded; null where it is not JSON (`[DONE]`). */
  readonly data: any;
  /** The data as it came. */
  readonly raw: string;
  /** The piece of answer it carries; "" for all other frames. */
  readonly text: string;
}

export interface Connecting {
  /** Of every request, e.g. `{ Authorization: "Bearer …" }`. */
  headers?: Record<string, string> | Headers;
  credentials?: RequestCredentials;
  /** Leaves the stream (it goes on at the gateway, as its disconnect policy says); `cancel()` stops it. */
  signal?: AbortSignal;
  /** Used instead of the global one. */
  fetch?: typeof fetch;
}

export interface Reading extends Connecting {
  /** Called with every frame, before it is yielded; an error frame is seen here only. */
  onEvent?: (event: StreamEvent) => void;
  /** Connections in a row that brought nothing, until it gives up. 12. Not counted while the machine is offline. */
  attempts?: number;
  /** Milliseconds before the second attempt; doubled each time, with jitter. 250. */
  backoff?: number;
  /** Milliseconds at most between two attempts. 10000. */
  maxBackoff?: number;
  /** Milliseconds without a byte after which a line counts as dead. 60000; 0: never. */
  silence?: number;
}

export interface StreamOptions extends Reading {
  /** The request. A plain object is sent as JSON with `stream: true`; anything else as it is. */
  body?: object | string | Uint8Array;
  /** The path to use where the address has none. */
  protocol?: Exclude<Protocol, "ndjson" | "google">;
  /** The stream's id; without one a new one is made. Unique per API key's owner. */
  id?: string;
  /** What becomes of the stream while nobody reads it: `cancel`, `grace=60s` (the default here), `continue`. */
  onDisconnect?: string;
}

export interface AttachOptions extends Reading {
  /** The gateway, where it is not the page's or this module's origin. */
  base?: string | URL;
  /** Frames received already. 0. */
  after?: number;
  /** The protocol to read in; the one it was started in by default. */
  protocol?: Protocol;
}

export interface CancelOptions extends Connecting {
  base?: string | URL;
}

export interface Cancelled {
  readonly streamId: string;
  readonly state: string;
  readonly receipt?: Record<string, unknown>;
}

/** One stream: iterate it once, or await its text. Leaving the loop leaves the stream; it does not cancel it. */
export class HeadgateStream implements AsyncIterable<StreamEvent> {
  private constructor();
  readonly id: string;
  /** Frames received so far. */
  readonly received: number;
  /** Connections made so far. */
  readonly connections: number;
  /** Stop it at its source. */
  cancel(): Promise<Cancelled>;
  /** Read it all; the text of the answer. */
  text(): Promise<string>;
  [Symbol.asyncIterator](): AsyncIterator<StreamEvent>;
}

/** POST a request and read its stream, through as many connections as it takes. */
export function stream(url: string | URL, options?: StreamOptions): HeadgateStream;
/** Read a stream that exists: from the beginning, or behind the first `after` frames. */
export function attach(id: string, options?: AttachOptions): HeadgateStream;
/** Stop a stream at its source, wherever it runs. Idempotent. */
export function cancel(id: string, options?: CancelOptions): Promise<Cancelled>;
/** An id for a stream: `st_` and 32 characters. */
export function newStreamId(): string;

/** Anything that ends a stream before its end. */
export class HeadgateError extends Error {
  /** The gateway's error code, or `connection_lost`, `not_a_stream`, `out_of_order`. */
  readonly code: string;
  /** HTTP status; 0 where there was none. */
  readonly status: number;
  readonly streamId: string;
  /** Frames received before it. */
  readonly received: number;
  readonly retryable: boolean;
  /** Milliseconds the gateway asks to wait. */
  readonly retryAfter: number | null;
  /** The answer's JSON. */
  readonly body: any;
}

/** The stream is not there (404) or no longer kept (410). */
export class StreamGoneError extends HeadgateError {}

/** The answer itself failed; `event` is its protocol's error frame. */
export class StreamFailedError extends HeadgateError {
  readonly event: StreamEvent;
}
