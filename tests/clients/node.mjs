// Clients of Node, driven by the tests: a line of JSON asks one question ({client, base, tools}), a line of JSON answers with
// what the client understood. What an SDK raises is in `error`, and so is an error part of the AI SDK's stream.
// With `until`, the client reads so far only, and does as it is told then (leaving.mjs): two questions, two answers.
import { createInterface } from "node:readline";
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { Ollama } from "ollama";
import { jsonSchema, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { STREAMS, leave } from "./leaving.mjs";

const USER = [{ role: "user", content: "hi" }];
const heard = () => ({ text: "", reasoning: "", calls: [], finish: "", usage: null, error: "" });
const parsed = (text) => JSON.parse(text || "{}");

async function openaiChat(base) {
  const sdk = new OpenAI({ apiKey: "k", baseURL: `${base}/v1`, maxRetries: 0 });
  const found = heard(), calls = [];
  const stream = await sdk.chat.completions.create({
    model: "m", messages: USER, stream: true, stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    const u = chunk.usage;
    if (u) found.usage = [u.prompt_tokens, u.completion_tokens, u.completion_tokens_details?.reasoning_tokens ?? 0,
      u.prompt_tokens_details?.cached_tokens ?? 0];
    for (const { delta, finish_reason } of chunk.choices) {
      found.text += delta.content ?? "";
      found.reasoning += delta.reasoning_content ?? "";
      for (const call of delta.tool_calls ?? []) {
        calls[call.index] ??= ["", ""];
        calls[call.index][0] += call.function?.name ?? "";
        calls[call.index][1] += call.function?.arguments ?? "";
      }
      found.finish = finish_reason ?? found.finish;
    }
  }
  found.calls = calls.map(([name, text]) => [name, parsed(text)]);
  return found;
}

async function openaiResponses(base) {
  const sdk = new OpenAI({ apiKey: "k", baseURL: `${base}/v1`, maxRetries: 0 });
  const found = heard();
  const stream = sdk.responses.stream({ model: "m", input: "hi" });
  for await (const event of stream) if (event.type === "response.output_text.delta") found.text += event.delta;
  const last = await stream.finalResponse();
  if (last.status === "failed" || last.error) throw new Error(last.error?.message ?? "failed");
  for (const item of last.output) {
    if (item.type === "reasoning") found.reasoning += item.summary.map((part) => part.text).join("");
    if (item.type === "function_call") found.calls.push([item.name, parsed(item.arguments)]);
  }
  const cut = last.incomplete_details?.reason;
  found.finish = cut ? (cut === "max_output_tokens" ? "length" : cut) : found.calls.length ? "tool_calls" : "stop";
  const u = last.usage;
  found.usage = [u.input_tokens, u.output_tokens, u.output_tokens_details.reasoning_tokens,
    u.input_tokens_details.cached_tokens];
  return found;
}

const STOPS = { end_turn: "stop", stop_sequence: "stop", max_tokens: "length", tool_use: "tool_calls", refusal: "content_filter" };

async function anthropic(base) {
  const sdk = new Anthropic({ apiKey: "k", baseURL: base, maxRetries: 0 });
  const found = heard();
  const last = await sdk.messages.stream({ model: "m", max_tokens: 64, messages: USER }).finalMessage();
  for (const block of last.content) {
    if (block.type === "text") found.text += block.text;
    if (block.type === "thinking") found.reasoning += block.thinking;
    if (block.type === "tool_use") found.calls.push([block.name, block.input]);
  }
  found.finish = STOPS[last.stop_reason] ?? "";
  const u = last.usage, cached = u.cache_read_input_tokens ?? 0;
  found.usage = [u.input_tokens + cached, u.output_tokens, null, cached];
  return found;
}

async function ollama(base) {
  const found = heard();
  for await (const part of await new Ollama({ host: base }).chat({ model: "m", messages: USER, stream: true })) {
    found.text += part.message.content ?? "";
    found.reasoning += part.message.thinking ?? "";
    for (const call of part.message.tool_calls ?? []) found.calls.push([call.function.name, call.function.arguments]);
    if (part.done) {
      found.finish = found.calls.length && part.done_reason === "stop" ? "tool_calls" : part.done_reason;
      found.usage = [part.prompt_eval_count ?? 0, part.eval_count ?? 0, null, null];
    }
  }
  return found;
}

const REASONS = { STOP: "stop", MAX_TOKENS: "length", SAFETY: "content_filter" };

async function google(base) {
  const sdk = new GoogleGenAI({ apiKey: "k", httpOptions: { baseUrl: base } });
  const found = heard();
  for await (const chunk of await sdk.models.generateContentStream({ model: "m", contents: "hi" })) {
    const [candidate] = chunk.candidates ?? [];
    for (const part of candidate?.content?.parts ?? []) {
      if (part.functionCall) found.calls.push([part.functionCall.name, part.functionCall.args ?? {}]);
      else if (part.thought) found.reasoning += part.text ?? "";
      else found.text += part.text ?? "";
    }
    if (candidate?.finishReason) found.finish = REASONS[candidate.finishReason];
    const u = chunk.usageMetadata;
    if (u?.candidatesTokenCount !== undefined) found.usage = [u.promptTokenCount,
      u.candidatesTokenCount + (u.thoughtsTokenCount ?? 0), u.thoughtsTokenCount ?? 0, u.cachedContentTokenCount ?? 0];
  }
  if (!found.finish) throw new Error("no finishReason");
  if (found.calls.length && found.finish === "stop") found.finish = "tool_calls";
  return found;
}

const any = tool({ description: "", inputSchema: jsonSchema({ type: "object", additionalProperties: true }) });

async function aiSdk(model, offers) {
  const found = heard(), tools = offers ? { weather: any, clock: any } : undefined;
  const { fullStream } = streamText({ model, prompt: "hi", maxRetries: 0, tools, onError: () => undefined });
  for await (const part of fullStream) {
    if (part.type === "text-delta") found.text += part.text;
    if (part.type === "reasoning-delta") found.reasoning += part.text;
    if (part.type === "tool-call") found.calls.push([part.toolName, part.input]);
    if (part.type === "error") found.error ||= String(part.error?.message ?? part.error);
    if (part.type === "finish") {
      found.finish = part.finishReason.replace("-", "_");
      const u = part.totalUsage;
      found.usage = [u.inputTokens, u.outputTokens, null, null];
    }
  }
  return found;
}

const CLIENTS = {
  "openai-node chat": openaiChat,
  "openai-node responses": openaiResponses,
  "anthropic-node": anthropic,
  "ollama-js": ollama,
  "google-genai-node": google,
  "ai openai (responses)": (base, tools) => aiSdk(createOpenAI({ apiKey: "k", baseURL: `${base}/v1` })("m"), tools),
  "ai openai chat": (base, tools) => aiSdk(createOpenAI({ apiKey: "k", baseURL: `${base}/v1` }).chat("m"), tools),
  "ai openai-compatible": (base, tools) =>
    aiSdk(createOpenAICompatible({ name: "x", apiKey: "k", baseURL: `${base}/v1`, includeUsage: true })("m"), tools),
  "ai anthropic": (base, tools) => aiSdk(createAnthropic({ apiKey: "k", baseURL: `${base}/v1` })("m"), tools),
};

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (found) => process.stdout.write(JSON.stringify({ ...heard(), ...found }) + "\n");
const word = async () => JSON.parse((await lines.next()).value);

for (let line = await lines.next(); !line.done; line = await lines.next()) {
  const { client, base, tools, until } = JSON.parse(line.value);
  try {
    tell(await (until ? leave(STREAMS[client], base, until, tell, word) : CLIENTS[client](base, tools)));
  } catch (error) {
    tell({ error: `${error?.name}: ${error?.message}` });
  }
}
