"""A neutral request in the words of Google's generateContent (protocol source: its reference, v1beta). Pure.

Law: opaque signatures come back exactly where Google put them, and only what Google itself gave is sent back.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends import wire
from backends.contract.request import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from backends.hosted_tools import said_in

_BUDGET = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}  # tokens per effort
_STRICT = re.compile(r"gemini-(?:[3-9]|\d\d)")  # these refuse a call of an earlier turn that has no signature
_UNSIGNED = "skip_thought_signature_validator"  # Google's documented signature for calls it did not make itself
_NESTED = ("generationConfig.", "toolConfig.")  # how fields of these objects are called in `extra`


def contents_body(request: ChatRequest) -> dict[str, Any]:
    """The request as a generateContent body. Raises BackendError INVALID_REQUEST: tools of another provider."""
    system = "\n\n".join(m.text() for m in request.messages if m.role == "system")
    declared = [
        wire.drop_none(name=t.name, description=t.description, parametersJsonSchema=t.parameters)
        for t in request.tools
        if not t.hosted
    ]
    extra = request.extra if request.dialect == "google" else {}
    tools = ([{"functionDeclarations": declared}] if declared else []) + said_in("google", request)
    return {
        **{name: value for name, value in extra.items() if not name.startswith(_NESTED)},
        **wire.drop_none(
            contents=_contents(request),
            systemInstruction={"parts": [{"text": system}]} if system else None,
            generationConfig={**_within(extra, "generationConfig."), **_generation(request)},
            tools=tools,
            toolConfig={
                **_within(extra, "toolConfig."),
                **(_tool_config(request.tool_choice) if declared else {}),
            },
        ),
    }


def embed_body(body: dict[str, Any], model: str) -> dict[str, Any]:
    """An OpenAI-shaped embeddings body as a batchEmbedContents one."""
    said = body.get("input")
    own = wire.drop_none(outputDimensionality=body.get("dimensions"))
    texts = [said] if isinstance(said, str) else said or []
    requests = [{"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **own} for text in texts]
    return {"requests": requests}


def _within(extra: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in extra.items() if name.startswith(prefix)}


def _generation(request: ChatRequest) -> dict[str, Any]:
    wanted = request.response_format or {}
    json_wanted = wanted.get("type") in ("json_object", "json_schema")
    schema = wanted.get("json_schema")
    return wire.drop_none(
        maxOutputTokens=request.max_tokens,
        temperature=request.temperature,
        topP=request.top_p,
        topK=request.top_k,
        stopSequences=list(request.stop),
        seed=request.seed,
        candidateCount=request.n if request.n != 1 else None,
        presencePenalty=request.presence_penalty,
        frequencyPenalty=request.frequency_penalty,
        responseMimeType="application/json" if json_wanted else None,
        responseJsonSchema=schema.get("schema") if isinstance(schema, dict) else None,
        responseLogprobs=request.logprobs,
        logprobs=request.top_logprobs,
        thinkingConfig=_thinking(request),
    )


def _thinking(request: ChatRequest) -> dict[str, Any] | None:
    budget = request.reasoning_budget
    if budget is None:
        budget = _BUDGET.get(request.reasoning_effort or "")
    return None if budget is None else {"thinkingBudget": budget, "includeThoughts": budget != 0}


def _tool_config(choice: str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice.startswith("name:"):
        return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice[5:]]}}
    mode = {"none": "NONE", "required": "ANY"}.get(choice, "AUTO")
    return {"functionCallingConfig": {"mode": mode}}


def _contents(request: ChatRequest) -> list[dict[str, Any]]:
    """Turns of user and model; a result is matched to its call by name, which only the earlier call says."""
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # as far as the turns before say: an id may come again in a later one
    strict = _STRICT.match(request.model.removeprefix("models/")) is not None
    for message in request.messages:
        if message.role == "system":
            continue
        names |= {call.id: call.name for call in message.tool_calls}
        role = "model" if message.role == "assistant" else "user"
        parts = list(_parts(message, names, strict))
        if out and out[-1]["role"] == role:
            out[-1]["parts"].extend(parts)
        elif parts:
            out.append({"role": role, "parts": parts})
    return out


def _parts(message: Message, names: Mapping[str, str], strict: bool) -> Iterator[dict[str, Any]]:
    parts: Sequence[Part] = (TextPart(message.content),) if isinstance(message.content, str) else message.content
    if message.role == "tool":
        yield _result(message, names)
        parts = [part for part in parts if not isinstance(part, TextPart)]
    for part in parts:
        yield from _part(part)
    for number, call in enumerate(message.tool_calls):
        yield _call(call, strict and number == 0)


def _result(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    name = message.name or names.get(message.tool_call_id, message.tool_call_id)
    text = message.text()
    response = {"error": text} if message.failed else wire.arguments_of(text) or {"result": text}
    return {"functionResponse": {"name": name, "response": response}}


def _call(call: ToolCall, needs_signature: bool) -> dict[str, Any]:
    """Of calls made at once only the first one is signed."""
    signature = call.signature or (_UNSIGNED if needs_signature else "")
    said: dict[str, Any] = {"functionCall": {"name": call.name, "args": wire.arguments_of(call.arguments)}}
    return {**said, "thoughtSignature": signature} if signature else said


def _part(part: Part) -> Iterator[dict[str, Any]]:
    match part:
        case TextPart(text):
            if text:
                yield {"text": text}
        case ImagePart(url, data, media_type):
            yield _file(url, media_type, "image/jpeg") if url else _inline(data, media_type or "image/png")
        case FilePart(url, data, media_type):
            yield _file(url, media_type, "application/pdf") if url else _inline(data, media_type or "application/pdf")
        case AudioPart(data, kind):
            yield _inline(data, f"audio/{kind}")
        case ReasoningPart(dialect="google"):
            yield _thought(part)
        case ReasoningPart():
            pass  # another provider's: it would not be believed


def _thought(part: ReasoningPart) -> dict[str, Any]:
    """A part may hold a signature and nothing else."""
    said: dict[str, Any] = {"text": part.text, "thought": True} if part.text else {"text": ""}
    return {**said, "thoughtSignature": part.signature} if part.signature else said


def _file(url: str, media_type: str, otherwise: str) -> dict[str, Any]:
    """Google wants to know what it will find there."""
    guessed = media_type or mimetypes.guess_type(url.partition("?")[0])[0] or otherwise
    return {"fileData": {"fileUri": url, "mimeType": guessed}}


def _inline(data: str, media_type: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": data}}
