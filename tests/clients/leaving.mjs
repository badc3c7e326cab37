// How each client of Node leaves an answer in its middle. A stream is {pieces, leave, id}: an iterator of texts, the SDK's own
// way to stop it, and the stream's id where the SDK shows the response's headers before its end (ollama-js and the AI SDK do not).
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { Ollama } from "ollama";
import { streamText } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const USER = [{ role: "user", content: "hi" }];
const ID = "x-stream-id";

async function* texts(stream, of) {
  for await (const part of stream) yield of(part) ?? "";
}

const openai = (base) => new OpenAI({ apiKey: "k", baseURL: `${base}/v1`, maxRetries: 0 });

async function openaiChat(base) {
  const asked = openai(base).chat.completions.create({ model: "m", messages: USER, stream: true });
  const { data, response } = await asked.withResponse();
  return {
    pieces: texts(data, (chunk) => chunk.choices[0]?.delta.content),
    leave: () => data.controller.abort(),
    id: response.headers.get(ID),
  };
}

async function openaiResponses(base) {
  const signal = new AbortController();
  const asked = openai(base).responses.create({ model: "m", input: "hi", stream: true }, { signal: signal.signal });
  const { data, response } = await asked.withResponse();
  return { pieces: texts(data, (event) => event.delta), leave: () => signal.abort(), id: response.headers.get(ID) };
}

async function anthropic(base) {
  const sdk = new Anthropic({ apiKey: "k", baseURL: base, maxRetries: 0 });
  const stream = sdk.messages.stream({ model: "m", max_tokens: 64, messages: USER });
  stream.on("error", () => undefined);
  const { response } = await stream.withResponse();
  async function* pieces() {
    yield* texts(stream, (event) => event.delta?.text);
    await stream.finalMessage(); // which raises what came while nobody was reading; the iterator forgets it
  }
  return { pieces: pieces(), leave: () => stream.abort(), id: response.headers.get(ID) };
}

async function ollama(base) {
  const stream = await new Ollama({ host: base }).chat({ model: "m", messages: USER, stream: true });
  return { pieces: texts(stream, (part) => part.message.content), leave: () => stream.abort(), id: null };
}

async function google(base) {
  const sdk = new GoogleGenAI({ apiKey: "k", httpOptions: { baseUrl: base } });
  const left = new AbortController();
  const asked = { model: "m", contents: "hi", config: { abortSignal: left.signal } };
  const found = { leave: () => left.abort(), id: null };
  found.pieces = texts(await sdk.models.generateContentStream(asked), (chunk) => {
    found.id ??= chunk.sdkHttpResponse?.headers?.[ID] ?? null;
    return chunk.text;
  });
  return found;
}

async function aiSdk(model) {
  const left = new AbortController();
  const { fullStream } = streamText({
    model, prompt: "hi", maxRetries: 0, abortSignal: left.signal, onError: () => undefined,
  });
  return { pieces: texts(fullStream, (part) => (part.type === "text-delta" ? part.text : "")), leave: () => left.abort(), id: null };
}

export const STREAMS = {
  "openai-node chat": openaiChat,
  "openai-node responses": openaiResponses,
  "anthropic-node": anthropic,
  "ollama-js": ollama,
  "google-genai-node": google,
  "ai openai (responses)": (base) => aiSdk(createOpenAI({ apiKey: "k", baseURL: `${base}/v1` })("m")),
  "ai openai chat": (base) => aiSdk(createOpenAI({ apiKey: "k", baseURL: `${base}/v1` }).chat("m")),
  "ai openai-compatible": (base) => aiSdk(createOpenAICompatible({ name: "x", apiKey: "k", baseURL: `${base}/v1` })("m")),
  "ai anthropic": (base) => aiSdk(createAnthropic({ apiKey: "k", baseURL: `${base}/v1` })("m")),
};

// Reads until the text ends so; then tells its id and waits for a word: "leave", or "read" on, to the end or an error.
export async function leave(begin, base, until, tell, word) {
  const stream = await begin(base);
  let text = "", error = "";
  while (!text.endsWith(until)) {
    const { value, done } = await stream.pieces.next();
    if (done) throw new Error(`over after ${JSON.stringify(text)}`);
    text += value;
  }
  tell({ text, id: stream.id ?? "" });
  if ((await word()) === "leave") stream.leave();
  try {
    while (!(await stream.pieces.next()).done);
  } catch (raised) {
    error = `${raised?.name}: ${raised?.message}`;
  }
  return { text, error };
}
