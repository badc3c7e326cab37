"""Python clients that need an environment of their own, driven like `node.mjs`: a question a line, an answer a line."""

from __future__ import annotations

import json
import sys
from typing import Any

from python_leaving import STREAMS, leave

USER = [("user", "hi")]


def heard() -> dict[str, Any]:
    return {"text": "", "reasoning": "", "calls": [], "finish": "", "usage": None, "error": ""}


def _tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "any", "parameters": {"type": "object", "properties": {}}}


def chain(model: Any, tools: bool) -> dict[str, Any]:
    """A LangChain chat model, its chunks added up as its users add them up."""
    found, whole = heard(), None
    if tools:
        model = model.bind_tools([_tool("weather"), _tool("clock")])
    for chunk in model.stream(USER):
        whole = chunk if whole is None else whole + chunk
    for block in whole.content_blocks:
        if block["type"] == "text":
            found["text"] += block["text"]
        elif block["type"] == "reasoning":
            found["reasoning"] += block.get("reasoning", "")
    found["calls"] = [[call["name"], call["args"]] for call in whole.tool_calls]
    said = whole.response_metadata
    stop = said.get("finish_reason") or said.get("stop_reason") or said.get("done_reason")
    found["finish"] = _STOPS.get(stop, stop)
    if found["finish"] == "stop" and found["calls"]:
        found["finish"] = "tool_calls"
    usage = whole.usage_metadata
    found["usage"] = [usage["input_tokens"], usage["output_tokens"], None, None] if usage else None
    return found


_STOPS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}


def langchain_openai(base: str, tools: bool) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    return chain(ChatOpenAI(model="m", base_url=f"{base}/v1", api_key="k", max_retries=0, stream_usage=True), tools)


def langchain_anthropic(base: str, tools: bool) -> dict[str, Any]:
    from langchain_anthropic import ChatAnthropic

    return chain(ChatAnthropic(model="m", base_url=base, api_key="k", max_retries=0, max_tokens=64), tools)


def langchain_ollama(base: str, tools: bool) -> dict[str, Any]:
    from langchain_ollama import ChatOllama

    return chain(ChatOllama(model="m", base_url=base, reasoning=True), tools)


_REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}


def google_genai(base: str, tools: bool) -> dict[str, Any]:
    from google import genai

    found = heard()
    sdk = genai.Client(api_key="k", http_options={"base_url": base})
    for chunk in sdk.models.generate_content_stream(model="m", contents="hi"):
        for candidate in chunk.candidates or ():
            for part in (candidate.content and candidate.content.parts) or ():
                if part.function_call:
                    found["calls"].append([part.function_call.name, part.function_call.args or {}])
                else:
                    found["reasoning" if part.thought else "text"] += part.text or ""
            if candidate.finish_reason:
                found["finish"] = _REASONS[candidate.finish_reason.name]
        usage = chunk.usage_metadata
        if usage and usage.candidates_token_count is not None:
            thoughts = usage.thoughts_token_count or 0
            found["usage"] = [usage.prompt_token_count, usage.candidates_token_count + thoughts, thoughts,
                              usage.cached_content_token_count or 0]  # fmt: skip
    if not found["finish"]:
        raise RuntimeError("no finish_reason")
    if found["calls"] and found["finish"] == "stop":
        found["finish"] = "tool_calls"
    return found


CLIENTS = {
    "langchain-openai": langchain_openai,
    "langchain-anthropic": langchain_anthropic,
    "langchain-ollama": langchain_ollama,
    "google-genai": google_genai,
}


def tell(**found: Any) -> None:
    print(json.dumps({**heard(), **found}), flush=True)


def word() -> str:
    said: str = json.loads(sys.stdin.readline())
    return said


def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        client, base, until = asked["client"], asked["base"], asked.get("until")
        try:
            found = leave(STREAMS[client], base, until, tell, word) if until else CLIENTS[client](base, asked["tools"])
        except Exception as error:  # whatever it is, the test wants to see it
            found = {"error": f"{type(error).__name__}: {error}"}
        tell(**found)


if __name__ == "__main__":
    main()
