"""Google's stream of GenerateContentResponse objects, candidate 0, decoded (protocol source: its reference). Pure.

Law: there is no end marker; the stream is done when the body ends after a finish reason (or a blocked prompt).
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Decoder
from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    ToolResult,
    Usage,
)  # fmt: skip
from backends.contract.payload import sse_events
from backends.contract.refusal import in_stream, unreadable
from backends.google_sources import Sources

_FILTERED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}
_BROKEN = {
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
}


class GoogleDecoder(Decoder):
    """One stream, `alt=sse`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._secrets = secrets
        self._started = self._finished = self._failed = False
        self._calls = 0
        self._runs = 0  # of code at the provider
        self._code: dict[str, Any] = {}
        self._usage = Usage()
        self._sources = Sources()

    def feed(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for _, data in sse_events(block):
            if self._failed:
                break
            try:
                self._chunk(msgspec.json.decode(data), out)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError):
                self._fail(out, unreadable("a chunk"))
        return out

    def eof(self) -> list[Event]:
        self.done = self._finished and not self._failed
        return []

    def _fail(self, out: list[Event], error: BackendError) -> None:
        self._failed = True
        out.append(Failed(error))

    def _chunk(self, chunk: dict[str, Any], out: list[Event]) -> None:
        if chunk.get("error"):
            self._fail(out, in_stream(chunk["error"], self._secrets))
            return
        if not self._started:
            self._started = True
            out.append(Start(_text(chunk.get("responseId")), _text(chunk.get("modelVersion"))))
        for candidate in chunk.get("candidates") or ():
            if candidate.get("index", 0) == 0:
                self._candidate(candidate, out)
        if (chunk.get("promptFeedback") or {}).get("blockReason"):
            self._finish("content_filter", out)
        self._count(chunk.get("usageMetadata"), out)

    def _candidate(self, candidate: dict[str, Any], out: list[Event]) -> None:
        logprobs = _logprobs(candidate.get("logprobsResult"))
        for part in (candidate.get("content") or {}).get("parts") or ():
            logprobs = self._part(part, logprobs, out)
        out += self._sources.read(candidate)
        reason = candidate.get("finishReason")
        if reason in _BROKEN:
            self._fail(out, BackendError(ErrorCode.UPSTREAM_FAILED, f"the model broke off: {reason}", kind=reason))
        elif reason:
            self._finish(_reason(reason, self._calls), out)

    def _part(self, part: dict[str, Any], logprobs: Any, out: list[Event]) -> Any:
        """The chunk's logprobs go with its first text; what is left of them is returned."""
        text, signature = _text(part.get("text")), _text(part.get("thoughtSignature"))
        if part.get("functionCall"):
            self._call(part["functionCall"], signature, out)
        elif part.get("thought"):
            if text or signature:
                out.append(ReasoningDelta(text, signature))
        else:
            if signature:
                out.append(ReasoningDelta("", signature))
            if text:
                self._sources.said(text)
                out.append(TextDelta(text, logprobs))
                logprobs = None
            self._ran(part, out)
        return logprobs

    def _call(self, call: dict[str, Any], signature: str, out: list[Event]) -> None:
        arguments = msgspec.json.encode(call.get("args") or {}).decode()
        name = _text(call.get("id")) or f"call_{self._calls}"
        out.append(ToolCallDelta(self._calls, name, _text(call["name"]), arguments, signature))
        self._calls += 1

    def _ran(self, part: dict[str, Any], out: list[Event]) -> None:
        """Code the model wrote, then what it gave when Google ran it."""
        if part.get("executableCode"):
            self._code = part["executableCode"]
        result = part.get("codeExecutionResult")
        if result:
            out.append(ToolResult(f"code_{self._runs}", "code_execution", {**self._code, **result}))
            self._runs += 1

    def _finish(self, reason: FinishReason, out: list[Event]) -> None:
        if not self._finished:
            self._finished = True
            out.append(Finish(reason))

    def _count(self, usage: dict[str, Any] | None, out: list[Event]) -> None:
        if not usage:
            return
        thoughts = _number(usage.get("thoughtsTokenCount"))
        prompt = _number(usage.get("promptTokenCount")) + _number(usage.get("toolUsePromptTokenCount"))
        self._usage = Usage(
            prompt=prompt or self._usage.prompt,
            completion=_number(usage.get("candidatesTokenCount")) + thoughts,
            reasoning=thoughts,
            cached=_number(usage.get("cachedContentTokenCount")),
        )
        out.append(self._usage)


def _reason(reason: str, calls: int) -> FinishReason:
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED or reason.startswith("IMAGE_"):
        return "content_filter"
    return "tool_calls" if calls else "stop"


def _text(value: Any) -> str:
    """Raises TypeError where something else stands."""
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value or ""


def _number(value: Any) -> int:
    return value if type(value) is int else 0


def _logprobs(said: Any) -> list[dict[str, Any]] | None:
    """`logprobsResult` as OpenAI's items."""
    if not said or not said.get("chosenCandidates"):
        return None
    tops = [top.get("candidates") or () for top in said.get("topCandidates") or ()]
    chosen = said["chosenCandidates"]
    tops += [()] * (len(chosen) - len(tops))
    return [{**_token(item), "top_logprobs": [_token(t) for t in top]} for item, top in zip(chosen, tops, strict=False)]


def _token(item: dict[str, Any]) -> dict[str, Any]:
    token = _text(item.get("token"))
    return {"token": token, "logprob": item.get("logProbability") or 0.0, "bytes": list(token.encode())}
