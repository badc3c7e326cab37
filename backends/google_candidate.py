"""One candidate of Google's stream: what its parts say, as events (protocol source: its reference). Pure.

Law: a finish reason is told once, and a model that broke off has failed. What cannot be read raises KeyError, TypeError
or AttributeError.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.events import (
    Event,
    Failed,
    Finish,
    FinishReason,
    OtherChoice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolResult,
)
from backends.google_sources import Sources

_FILTERED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}
_BROKEN = {
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
}


class CandidateReader:
    """One candidate. `finished`: it has told its finish reason; `broken`: a failure instead. `answer`: what tells this
    answer's calls, which Google leaves without ids, from those of a conversation's other answers."""

    def __init__(self, answer: str = "") -> None:
        self.finished = self.broken = False
        self._answer = answer
        self._calls = 0
        self._runs = 0  # of code at the provider
        self._code: dict[str, Any] = {}
        self._sources = Sources()

    def read(self, candidate: dict[str, Any], out: list[Event]) -> None:
        """The events of its part of a chunk."""
        logprobs = _logprobs(candidate.get("logprobsResult"))
        for part in (candidate.get("content") or {}).get("parts") or ():
            logprobs = self._part(part, logprobs, out)
        out += self._sources.read(candidate)
        reason = candidate.get("finishReason")
        if reason in _BROKEN:
            self.broken = True
            error = BackendError(ErrorCode.UPSTREAM_FAILED, f"the model broke off: {reason}", kind=reason)
            out.append(Failed(error))
        elif reason:
            self.finish(_reason(reason, self._calls), out)

    def _part(self, part: dict[str, Any], logprobs: Any, out: list[Event]) -> Any:
        """The chunk's logprobs go with its first text; what is left of them is returned."""
        text, signature = text_of(part.get("text")), text_of(part.get("thoughtSignature"))
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
        name = text_of(call.get("id")) or f"call_{self._answer}{self._calls}"
        out.append(ToolCallDelta(self._calls, name, text_of(call["name"]), arguments, signature))
        self._calls += 1

    def _ran(self, part: dict[str, Any], out: list[Event]) -> None:
        """Code the model wrote, then what it gave when Google ran it."""
        if part.get("executableCode"):
            self._code = part["executableCode"]
        result = part.get("codeExecutionResult")
        if result:
            out.append(ToolResult(f"code_{self._runs}", "code_execution", {**self._code, **result}))
            self._runs += 1

    def finish(self, reason: FinishReason, out: list[Event]) -> None:
        """It is over, for this reason."""
        if not self.finished:
            self.finished = True
            out.append(Finish(reason))


class OtherCandidates:
    """The candidates of a stream beside the first, by their number; most streams have none."""

    def __init__(self, answer: str = "") -> None:
        self._answer = answer
        self._readers: dict[int, CandidateReader] = {}

    @property
    def finished(self) -> bool:
        """Whether all that began have finished."""
        return all(reader.finished for reader in self._readers.values())

    @property
    def broken(self) -> bool:
        """Whether one of them has failed."""
        return any(reader.broken for reader in self._readers.values())

    def read(self, candidate: dict[str, Any], out: list[Event]) -> None:
        """The events of its part of a chunk, each as one of that choice."""
        index = candidate["index"]
        if type(index) is not int:
            raise TypeError(index)
        reader = self._readers.get(index)
        if reader is None:
            reader = self._readers[index] = CandidateReader(f"{self._answer}{index}_")
        said: list[Any] = []
        reader.read(candidate, said)
        out.extend(event if isinstance(event, Failed) else OtherChoice(index, event) for event in said)


def _reason(reason: str, calls: int) -> FinishReason:
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED or reason.startswith("IMAGE_"):
        return "content_filter"
    return "tool_calls" if calls else "stop"


def text_of(value: Any) -> str:
    """Raises TypeError where something else stands."""
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value or ""


def _logprobs(said: Any) -> list[dict[str, Any]] | None:
    """`logprobsResult` as OpenAI's items."""
    if not said or not said.get("chosenCandidates"):
        return None
    tops = [top.get("candidates") or () for top in said.get("topCandidates") or ()]
    chosen = said["chosenCandidates"]
    tops += [()] * (len(chosen) - len(tops))
    return [{**_token(item), "top_logprobs": [_token(t) for t in top]} for item, top in zip(chosen, tops, strict=False)]


def _token(item: dict[str, Any]) -> dict[str, Any]:
    token = text_of(item.get("token"))
    return {"token": token, "logprob": item.get("logProbability") or 0.0, "bytes": list(token.encode())}
