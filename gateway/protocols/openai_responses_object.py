"""The Response object of OpenAI's Responses API, and the ids in it. Pure.

Law: `resp_` and what follows `st_` in a stream's id name the same stream, both ways, so that a client finds its stream
again by the id it was given. Fields clients insist on (`created_at`, `model`, `output`, `usage` at the end) are always
there. What the request said of the answer (`About.echo`) is said again in every Response of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract.errors import ErrorCode
from backends.contract.events import Citation, FinishReason, Usage
from gateway.protocols.base import About, Answer, Ending, ToolCallWhole
from gateway.protocols.errors import error_of
from gateway.protocols.openai_responses_items import seal

Item = dict[str, Any]

# Fields of a request that its Response has too, as they were sent.
_ECHOED = (
    *("background", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls"),
    *("previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "store", "temperature", "text"),
    *("tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user"),
)

# What ends an answer before its natural end, in this API's words. A partial answer kept at a timeout was cut short.
_CUT: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "timeout": "max_output_tokens",
    "content_filter": "content_filter",
}
_CODES = {ErrorCode.RATE_LIMITED: "rate_limit_exceeded", ErrorCode.INVALID_REQUEST: "invalid_prompt"}


def response_id(stream_id: str) -> str:
    """The id under which clients know a stream."""
    return "resp_" + stream_id.removeprefix("st_")


def stream_ids(given: str) -> tuple[str, ...]:
    """The streams a response id may mean: one of ours, or one whose id the client chose (`X-Stream-Id`)."""
    bare = given.removeprefix("resp_")
    return (f"st_{bare}", bare) if given.startswith("resp_") else ()


def suffix(about: About) -> str:
    """What the ids of a response's items share with it."""
    return about.stream_id.removeprefix("st_")


def echo_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a Response says of its request (`body`: its JSON); a text format that was not said is plain text."""
    said = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    if isinstance(said.get("text"), dict):
        said["text"] = {"format": {"type": "text"}, **said["text"]}
    return said


def response(about: About, status: str, output: list[Item], **said: Any) -> dict[str, Any]:
    """A Response; `said` overrides what would be null, or as it was asked for."""
    return {
        "id": response_id(about.stream_id),
        "object": "response",
        "created_at": about.created_ms // 1000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": about.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
        **about.echo,
        **said,
    }


def ended_well(ending: Ending) -> bool:
    """Whether an ending is an answer, complete or cut short on purpose."""
    return ending.error is None and ending.finish not in ("cancelled", "error")


def status_of(ending: Ending) -> str:
    """completed, incomplete, cancelled or failed."""
    if ended_well(ending):
        return "incomplete" if ending.finish in _CUT else "completed"
    cancelled = ending.error is None or ending.error.code is ErrorCode.CANCELLED
    return "cancelled" if ending.finish == "cancelled" and cancelled else "failed"


def final(about: About, ending: Ending, output: list[Item], **said: Any) -> dict[str, Any]:
    """The Response of an answer that ended well."""
    reason = _CUT.get(ending.finish)
    details = {"reason": reason} if reason else None
    return response(about, status_of(ending), output, incomplete_details=details, usage=usage_of(ending.usage), **said)


def cut_off(about: About, ending: Ending, output: list[Item]) -> dict[str, Any]:
    """The Response of an answer that did not end well, as a resource: one that was cancelled has no error."""
    if status_of(ending) != "cancelled":
        return failed(about, ending, output)
    return response(about, "cancelled", output, usage=usage_of(ending.usage))


def failed(about: About, ending: Ending, output: list[Item]) -> dict[str, Any]:
    """The Response a stream ends with that failed or was cancelled, with what there was of it: SDKs go by its error."""
    error = error_of(ending)
    words = {"code": _CODES.get(error.code, "server_error"), "message": error.message}
    return response(about, status_of(ending), output, error=words, usage=usage_of(ending.usage))


def usage_of(usage: Usage) -> dict[str, Any]:
    """The usage object."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def reasoning_item(name: str, status: str | None, text: str = "", sealed: str = "") -> Item:
    """A reasoning item; `sealed` is its encrypted form."""
    item: Item = {"id": name, "type": "reasoning", "summary": [summary_part(text)] if text else []}
    if status:
        item["status"] = status
    return {**item, "encrypted_content": sealed} if sealed else item


def message_item(name: str, status: str, content: list[Item]) -> Item:
    """A message of the assistant."""
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(name: str, status: str, call: ToolCallWhole) -> Item:
    """A function call."""
    return {
        "id": name,
        "type": "function_call",
        "status": status,
        "arguments": call.arguments,
        "call_id": call.id or name,
        "name": call.name,
    }


def text_part(text: str, annotations: list[Any], logprobs: list[Any]) -> Item:
    """A text within a message."""
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def summary_part(text: str) -> Item:
    """A paragraph of a reasoning item."""
    return {"type": "summary_text", "text": text}


def output_of(about: About, answer: Answer, status: str) -> list[Item]:
    """The items of a whole answer: reasoning, text, calls."""
    name, output = suffix(about), list[Item]()
    if answer.reasoning or answer.signature:
        output.append(
            reasoning_item(f"rs_{name}_{len(output)}", None, answer.reasoning, seal(about.dialect, answer.signature))
        )
    if answer.text or not answer.tool_calls:
        output.append(message_item(f"msg_{name}_{len(output)}", status, [_part_of(answer)]))
    for call in answer.tool_calls:
        output.append(call_item(f"fc_{name}_{len(output)}", status, call))
    return output


def _part_of(answer: Answer) -> Item:
    notes = [note for note in (annotation(said, len(answer.text)) for said in answer.citations) if note is not None]
    return text_part(answer.text, notes, answer.logprobs)


def annotation(source: Citation, place: int) -> Item | None:
    """A citation in this API's words; one without a place stands at `place`, the end of the text so far. Sources
    without an address have no annotation here unless they came in this API's own words: None."""
    if source.dialect == "openai_responses":
        return source.source if isinstance(source.source, dict) else None
    if not source.url:
        return None
    end = place if source.end is None else source.end
    start = end if source.start is None else source.start
    where = {"start_index": min(start, end), "end_index": end}
    return {"type": "url_citation", **where, "url": source.url, "title": source.title}
