"""An answer that came whole although a stream was asked for, as the stream it should have been: its content in one
chunk, then its end. Pure.

Law: nothing is invented: every field the answer has is in one of the frames, in the dialect's own shape; what is not an
answer of the dialect gives no frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"


def frames_of(dialect: str, body: bytes) -> list[bytes]:
    """The frames of a whole answer in a dialect; none where it is not one, or the dialect's cannot be told so."""
    writer = _WRITERS.get(dialect)
    try:
        answer = msgspec.json.decode(body)
        return writer(answer) if writer is not None and isinstance(answer, dict) and "error" not in answer else []
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return []


def _data(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _chat(answer: dict[str, Any]) -> list[bytes]:
    head = {k: v for k, v in answer.items() if k not in ("choices", "usage")} | {"object": "chat.completion.chunk"}
    choices = [_chat_choice(choice) for choice in answer["choices"]]
    if not choices:
        return []
    frames = [_data({**head, "choices": choices})]
    if answer.get("usage"):
        frames.append(_data({**head, "choices": [], "usage": answer["usage"]}))
    return [*frames, _DONE]


def _chat_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return {**{k: v for k, v in choice.items() if k != "message"}, "delta": message}


def _completion(answer: dict[str, Any]) -> list[bytes]:
    if not answer["choices"]:
        return []
    return [_data(answer), _DONE]


def _event(kind: str, **rest: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **rest})


def _messages(answer: dict[str, Any]) -> list[bytes]:
    message = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    frames = [_event("message_start", message=message)]
    for index, block in enumerate(answer["content"]):
        frames.append(_event("content_block_start", index=index, content_block=_emptied(block)))
        frames += [_event("content_block_delta", index=index, delta=delta) for delta in _deltas(block)]
        frames.append(_event("content_block_stop", index=index))
    ending = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    return [*frames, _event("message_delta", delta=ending, usage=answer.get("usage") or {}), _event("message_stop")]


_EMPTY: Mapping[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def _emptied(block: dict[str, Any]) -> dict[str, Any]:
    return {**block, **_EMPTY.get(block["type"], {})}


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    match block["type"]:
        case "text":
            return [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            signed = {"type": "signature_delta", "signature": block.get("signature") or ""}
            return [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                *([signed] if signed["signature"] else []),
            ]
        case "tool_use":
            return [{"type": "input_json_delta", "partial_json": _encode(block["input"]).decode()}]
        case _:
            return []


def _contents(answer: dict[str, Any]) -> list[bytes]:
    return [_data(answer)] if answer.get("candidates") or answer.get("promptFeedback") else []


_WRITERS: dict[str, Callable[[dict[str, Any]], list[bytes]]] = {
    "openai": _chat,
    "openai_completions": _completion,
    "anthropic": _messages,
    "google": _contents,
}
