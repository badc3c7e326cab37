"""A neutral request as a body of OpenAI's Responses API. Pure.

Law: the mirror half of `gateway.protocols.openai_responses_items`: turns become items, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends import wire
from backends.contract.request import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    OtherPart,
    Part,
    ReasoningPart,
    TextPart,
    Tool,
)
from backends.hosted_tools import said_in

_DIALECT = "openai_responses"


def responses_body(request: ChatRequest) -> dict[str, Any]:
    """Without `model` and `stream`. What this API has no word for (stop, seed, n, penalties) is left out."""
    body = wire.drop_none(
        max_output_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=[_tool(tool) for tool in request.tools if not tool.hosted] + said_in(_DIALECT, request),
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning=wire.drop_none(effort=request.reasoning_effort),
        top_logprobs=request.top_logprobs,
        include=["message.output_text.logprobs"] if request.logprobs else [],
        metadata=request.metadata,
        user=request.user,
    )
    extra: dict[str, Any] = {"store": False}  # as the APIs do whose clients' requests are translated to this one
    if request.dialect == _DIALECT:
        extra = dict(request.extra)
    form = _format(request.response_format)
    if form:
        extra["text"] = {**extra.get("text", {}), "format": form}
    return {**extra, **body, "input": [item for message in request.messages for item in _items(message)]}


def _items(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        output = message.content if isinstance(message.content, str) else _parts(message.content, "input_text")
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}
        return
    parts = () if isinstance(message.content, str) else message.content
    for part in parts:
        if isinstance(part, ReasoningPart) and part.dialect == _DIALECT:
            yield _reasoning(part)
    spoken = message.content
    if not isinstance(spoken, str):
        spoken = tuple(part for part in parts if not isinstance(part, ReasoningPart))
    if spoken or not message.tool_calls:
        kind = "output_text" if message.role == "assistant" else "input_text"
        content = spoken if isinstance(spoken, str) else _parts(spoken, kind)
        yield {"type": "message", "role": message.role, "content": content}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _reasoning(part: ReasoningPart) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    sealed = part.signature or part.redacted
    return {"type": "reasoning", "summary": summary, **wire.drop_none(id=part.id, encrypted_content=sealed)}


def _parts(parts: tuple[Part, ...], text: str) -> list[dict[str, Any]]:
    return [said for said in (_part(part, text) for part in parts) if said is not None]


def _part(part: Part, text: str) -> dict[str, Any] | None:
    match part:
        case TextPart():
            return {"type": text, "text": part.text}
        case ImagePart(url, data, media_type, detail):
            where = url or f"data:{media_type or 'image/png'};base64,{data}"
            return {"type": "input_image", "image_url": where, "detail": detail or "auto"}
        case FilePart():
            data = f"data:{part.media_type or 'application/pdf'};base64,{part.data}" if part.data else ""
            said = wire.drop_none(file_data=data, file_url=part.url, file_id=part.file_id, filename=part.filename)
            return {"type": "input_file", **said}
        case AudioPart(data, form):
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case ReasoningPart() | OtherPart():
            return None


def _tool(tool: Tool) -> dict[str, Any]:
    said = wire.drop_none(description=tool.description, strict=tool.strict)
    return {"type": "function", "name": tool.name, "parameters": tool.parameters, **said}


def _tool_choice(choice: str | None) -> Any:
    if choice is not None and choice.startswith("name:"):
        return {"type": "function", "name": choice[5:]}
    return choice


def _format(said: dict[str, Any] | None) -> dict[str, Any] | None:
    """OpenAI's `response_format` of chat completions is `text.format` here, with the schema one level up."""
    if said is None:
        return None
    inner = said.get("json_schema")
    return {"type": said.get("type"), **(inner if isinstance(inner, dict) else {})}
