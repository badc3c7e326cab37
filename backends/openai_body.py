"""A request as the body of a chat completions call, for every server that speaks them. Pure.

Protocol source: the OpenAI API reference, "Create chat completion". Law: what a request holds and this API has a place
for is in the body; what it has no place for was dropped or refused before (`backends.contract.fit`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
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


def chat_body(request: ChatRequest, limit: str = "max_tokens", history: str = "") -> dict[str, Any]:
    """The body without `model` and `stream`. `limit` names the field for max_tokens, `history` the field of assistant
    turns that takes their reasoning (empty: there is none)."""
    body = wire.drop_none(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=list(request.stop),
        seed=request.seed,
        n=request.n if request.n != 1 else None,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        tools=[_tool(tool) for tool in request.tools],
        tool_choice=_tool_choice(request.tool_choice) if request.tools else None,  # refused without tools
        parallel_tool_calls=request.parallel_tool_calls if request.tools else None,
        response_format=request.response_format,
        reasoning_effort=request.reasoning_effort,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        metadata=request.metadata,
        user=request.user,
    )
    if request.max_tokens is not None:
        body[limit] = request.max_tokens
    extra = request.extra if request.dialect in ("openai", "native") else {}
    return {**extra, **body, "messages": list(_messages(request.messages, history))}


def _messages(messages: Iterable[Message], history: str) -> Iterator[dict[str, Any]]:
    """Tool turns hold only text here: their images follow in the user's turn, after the last of the row. Where the user
    says something then, it is one turn with it: templates of small servers refuse two in a row."""
    shown: list[dict[str, Any]] = []
    for message in messages:
        said = _message(message, history)
        if message.role == "user" and shown:
            said["content"] = [*shown, *_listed(said["content"])]
            shown = []
        elif message.role != "tool" and shown:
            yield {"role": "user", "content": shown}
            shown = []
        yield said
        if message.role == "tool" and not isinstance(message.content, str):
            shown += _parts(part for part in message.content if not isinstance(part, TextPart))
    if shown:
        yield {"role": "user", "content": shown}


def _message(message: Message, history: str) -> dict[str, Any]:
    said = wire.drop_none(name=message.name, tool_call_id=message.tool_call_id)
    content = _content(message)
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
        content = content or None
    if history and message.role == "assistant":
        said |= wire.drop_none(**{history: _reasoning(message)})
    return {"role": message.role, "content": content, **said}


def _content(message: Message) -> Any:
    """Text alone is a string: many templates of small servers know nothing else."""
    if isinstance(message.content, str):
        return message.content
    if message.role == "tool":
        return message.text()
    said = _parts(message.content)
    if not said:
        return ""
    return said[0]["text"] if len(said) == 1 and said[0]["type"] == "text" else said


def _listed(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _reasoning(message: Message) -> str:
    parts = () if isinstance(message.content, str) else message.content
    return "".join(part.text for part in parts if isinstance(part, ReasoningPart))


def _parts(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [said for said in map(_part, parts) if said is not None]


def _part(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart(url, data, media_type, detail):
            image = {"url": url or f"data:{media_type or 'image/png'};base64,{data}"}
            return {"type": "image_url", "image_url": {**image, **wire.drop_none(detail=detail)}}
        case AudioPart(data, form):
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case FilePart():
            return _file(part)
        case ReasoningPart() | OtherPart():
            return None  # has no place among the parts; see `_reasoning`


def _file(part: FilePart) -> dict[str, Any]:
    """A text document becomes text: this API takes only PDF as a file."""
    if part.media_type.startswith("text/") and part.data:
        try:
            return {"type": "text", "text": base64.b64decode(part.data, validate=True).decode()}
        except (binascii.Error, UnicodeDecodeError):
            pass  # the server may know what it is
    data = f"data:{part.media_type or 'application/pdf'};base64,{part.data}" if part.data else ""
    name = part.filename or ("document.pdf" if data else "")  # demanded with the data
    return {"type": "file", "file": wire.drop_none(file_id=part.file_id, filename=name, file_data=data)}


def _tool(tool: Tool) -> dict[str, Any]:
    function = wire.drop_none(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return {"type": "function", "function": function}


def _tool_choice(choice: str | None) -> Any:
    if choice is not None and choice.startswith("name:"):
        return {"type": "function", "function": {"name": choice[5:]}}
    return choice
