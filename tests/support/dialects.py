"""What a model says, once, and how each kind of server puts it on the wire: small writers, one per dialect.

Independent of the gateway on purpose: written from the APIs' references and from recordings, so that the gateway's own
halves cannot agree with each other about a mistake. A writer gives whole frames, so that a test can cut between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One event: `kind` is text, think, call (begins one) or args (more of its arguments)."""

    kind: str
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""
    logprobs: bool = False


@dataclass(frozen=True)
class Said:
    """A whole answer. `usage`: (prompt, completion, reasoning, cached); `broken`: an error ends it in its middle;
    `others`: the choices beside it, where several were asked for (their `usage` counts for nothing)."""

    steps: tuple[Step, ...]
    finish: str = "stop"
    usage: tuple[int, int, int, int] = (9, 5, 0, 0)
    broken: str = ""
    stop_sequence: str = ""
    others: tuple[Said, ...] = ()


def interleaved(tracks: list[list[bytes]]) -> list[bytes]:
    """The frames of several choices, told side by side."""
    longest = max(map(len, tracks))
    return [track[at] for at in range(longest) for track in tracks if at < len(track)]


def calls_whole(said: Said) -> list[Step]:
    """The steps, each call with all its arguments where it began: for servers that tell calls whole only."""
    found: list[Step] = []
    places: dict[int, int] = {}
    for step in said.steps:
        if step.kind == "args":
            at = places[step.index]
            found[at] = replace(found[at], text=found[at].text + step.text)
        else:
            if step.kind == "call":
                places[step.index] = len(found)
            found.append(step)
    return found


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def data(value: Any) -> bytes:
    return f"data: {dump(value)}\n\n".encode()


def _event(kind: str, value: Json) -> bytes:
    return f"event: {kind}\ndata: {dump({'type': kind, **value})}\n\n".encode()


def logprob(step: Step) -> Json:
    return {"token": step.text, "logprob": -0.5, "bytes": list(step.text.encode()), "top_logprobs": []}


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def _openai_usage(said: Said) -> Json:
    prompt, completion, reasoning, cached = said.usage
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _ending(said: Said, last: list[bytes]) -> list[bytes]:
    if said.broken:
        return [data({"error": {"message": said.broken, "type": "server_error", "param": None, "code": None}})]
    return last


def chat(said: Said, thinks: str = "reasoning_content") -> list[bytes]:
    """Chat completion chunks. `thinks`: this server's name for reasoning."""
    choices = (said, *said.others)
    out = interleaved([_chat_choice(one, number, thinks) for number, one in enumerate(choices)])
    counts = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
    finishes = [_chat_chunk(number, {}, one.finish) for number, one in enumerate(choices)]
    return out + _ending(said, [*finishes, data({**counts, "usage": _openai_usage(said)}), b"data: [DONE]\n\n"])


def _chat_chunk(number: int, delta: Json, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [choice]})  # fmt: skip


def _chat_choice(said: Said, number: int, thinks: str) -> list[bytes]:
    def chunk(delta: Json, **more: Any) -> bytes:
        return _chat_chunk(number, delta, **more)

    out = [chunk({"role": "assistant", "content": ""})]
    for step in said.steps:
        if step.kind == "text":
            more = {"logprobs": {"content": [logprob(step)], "refusal": None}} if step.logprobs else {}
            out.append(chunk({"content": step.text}, **more))
        elif step.kind == "think":
            out.append(chunk({thinks: step.text}))
        else:
            head = {"id": step.id, "type": "function"} if step.kind == "call" else {}
            name = {"name": step.name} if step.kind == "call" else {}
            call = {"index": step.index, **head, "function": {**name, "arguments": step.text}}
            out.append(chunk({"tool_calls": [call]}))
    return out


def completions(said: Said) -> list[bytes]:
    """The older API: text alone."""

    def chunk(number: int, text: str, finish: str | None = None, logprobs: Json | None = None) -> bytes:
        choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return data({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})

    def track(number: int, one: Said) -> list[bytes]:
        frames, offset = [], 0
        for step in one.steps:
            if step.kind == "text":
                lists: Json = {"tokens": [step.text], "token_logprobs": [-0.5], "top_logprobs": [{step.text: -0.5}],
                               "text_offset": [offset]}  # fmt: skip
                frames.append(chunk(number, step.text, logprobs=lists if step.logprobs else None))
                offset += len(step.text)
        return frames

    choices = list(enumerate((said, *said.others)))
    counts = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": []}
    finishes = [chunk(number, "", "stop" if one.finish == "tool_calls" else one.finish) for number, one in choices]
    last = [*finishes, data({**counts, "usage": _openai_usage(said)}), b"data: [DONE]\n\n"]
    return interleaved([track(*choice) for choice in choices]) + _ending(said, last)


# -- Anthropic ---------------------------------------------------------------------------------------------------------

_ANTHROPIC = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def messages(said: Said) -> list[bytes]:
    """Anthropic's events; a block per run of one kind, a signature at the end of each thinking block."""
    prompt, completion, reasoning, cached = said.usage
    counts: Json = {"input_tokens": prompt - cached, "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": cached, "output_tokens": 1}  # fmt: skip
    whole: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": counts}  # fmt: skip
    out, kind, index = [_event("message_start", {"message": whole}), _event("ping", {})], "", -1

    def delta(kind: str, **fields: Any) -> bytes:
        return _event("content_block_delta", {"index": index, "delta": {"type": kind, **fields}})

    def close() -> None:
        if kind == "think":
            out.append(delta("signature_delta", signature="c2ln"))
        if kind:
            out.append(_event("content_block_stop", {"index": index}))

    blocks: dict[str, Json] = {
        "text": {"type": "text", "text": ""},
        "think": {"type": "thinking", "thinking": "", "signature": ""},
    }
    for step in calls_whole(said):
        if step.kind != kind or step.kind == "call":
            close()
            kind, index = step.kind, index + 1
            block = blocks.get(kind) or {"type": "tool_use", "id": step.id, "name": step.name, "input": {}}
            out.append(_event("content_block_start", {"index": index, "content_block": block}))
        if kind == "call":
            half = len(step.text) // 2
            out += [delta("input_json_delta", partial_json=part) for part in (step.text[:half], step.text[half:])]
        else:
            name = "text" if kind == "text" else "thinking"
            out.append(delta(f"{name}_delta", **{name: step.text}))
    if said.broken:
        return [*out, _event("error", {"error": {"type": "api_error", "message": said.broken}})]
    close()
    stop = "stop_sequence" if said.stop_sequence else _ANTHROPIC[said.finish]
    details = {"output_tokens_details": {"thinking_tokens": reasoning}} if reasoning else {}
    last = {"delta": {"stop_reason": stop, "stop_sequence": said.stop_sequence or None},
            "usage": {**counts, "output_tokens": completion, **details}}  # fmt: skip
    return [*out, _event("message_delta", last), _event("message_stop", {})]


Writer = Callable[[Said], list[bytes]]
