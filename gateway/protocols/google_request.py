"""What Google's clients ask of generateContent (protocol source: its reference, v1beta). Pure.

Law: whatever the JSON, the outcome is a value or BackendError INVALID_REQUEST naming the field. Every field may be
spelt in camel or in snake case, as JSON of protocol buffers may.
"""

from __future__ import annotations

from typing import Any

from backends.contract.request import ChatRequest, Message, OtherPart, TextPart, Tool
from gateway.protocols.call_ids import CallIds
from gateway.protocols.google_turns import camelled, inner, read_turn, texts_of
from gateway.protocols.parsing import Fields, invalid
from gateway.protocols.schemas import plain_schema

_READ = frozenset(("contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "model"))
_READ_CONFIG = frozenset(
    ("maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "seed", "candidateCount", "presencePenalty")
) | {
    "frequencyPenalty",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseLogprobs",
    "logprobs",
    "thinkingConfig",
}
_CHOICES = {"NONE": "none", "ANY": "required", "AUTO": "auto", "VALIDATED": "auto"}


def read_request(data: dict[str, Any], model: str) -> ChatRequest:
    """A generateContent body; the model is said by the path."""
    fields = camelled(data)
    config, choosing = inner(fields, "generationConfig"), inner(fields, "toolConfig")
    thinking = inner(config, "thinkingConfig")
    budget = thinking.integer("thinkingBudget")
    effort = _effort(thinking, budget)
    n = config.integer("candidateCount", low=1)
    return ChatRequest(
        model=model,
        messages=_messages(fields),
        max_tokens=config.integer("maxOutputTokens", low=1),
        temperature=config.number("temperature", low=0),
        top_p=config.number("topP", low=0, high=1),
        top_k=config.integer("topK"),
        stop=_stop(config),
        seed=config.integer("seed"),
        n=1 if n is None else n,
        presence_penalty=config.number("presencePenalty"),
        frequency_penalty=config.number("frequencyPenalty"),
        tools=tuple(_tools(fields)),
        tool_choice=_choice(choosing),
        response_format=_format(config),
        reasoning_effort=effort,
        reasoning_budget=budget if budget is not None and budget > 0 else None,
        logprobs=config.flag("responseLogprobs"),
        top_logprobs=config.integer("logprobs", low=0),
        dialect="google",
        extra={
            **{name: value for name, value in fields.data.items() if name not in _READ and value is not None},
            **{f"generationConfig.{k}": v for k, v in config.data.items() if k not in _READ_CONFIG},
            **(_undecided(thinking) if effort is None and (budget or -1) < 0 else {}),
            **{f"toolConfig.{k}": v for k, v in choosing.data.items() if k != "functionCallingConfig"},
        },
    )


def _messages(fields: Fields) -> tuple[Message, ...]:
    ids = CallIds()
    path, said = fields.find("systemInstruction")
    system = said if isinstance(said, str) or said is None else texts_of(camelled(said, path))
    items = fields.items("contents")
    if not items:
        raise invalid("contents", "an array of at least one content")
    turns = [m for at, item in items for m in read_turn(camelled(item, at), ids)]
    if fields.data.get("cachedContent"):  # part of the prompt that only Google knows
        turns.insert(0, Message("user", (TextPart(""), OtherPart("cachedContent"))))
    return (*((Message("system", system),) if system else ()), *turns)


def _stop(config: Fields) -> tuple[str, ...]:
    found = []
    for path, item in config.items("stopSequences"):
        if not isinstance(item, str):
            raise invalid(path, "a string")
        found.append(item)
    return tuple(found)


def _format(config: Fields) -> dict[str, Any] | None:
    json_schema = config.object("responseJsonSchema")
    schema = config.object("responseSchema")
    if json_schema is None and schema is not None:
        json_schema = plain_schema(schema)
    if json_schema is not None:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json_schema}}
    return {"type": "json_object"} if config.text("responseMimeType") == "application/json" else None


def _effort(thinking: Fields, budget: int | None) -> str | None:
    level = thinking.text("thinkingLevel").lower()
    if level in ("minimal", "low", "medium", "high"):
        return level
    return "none" if budget == 0 else None


def _undecided(thinking: Fields) -> dict[str, Any]:
    """Thoughts wanted, how many is left to the model: other providers have no word for that."""
    return {"generationConfig.thinkingConfig": thinking.data} if thinking.data else {}


def _tools(fields: Fields) -> list[Tool]:
    found: list[Tool] = []
    for path, item in fields.items("tools"):
        tool = camelled(item, path)
        found += [_function(camelled(said, at)) for at, said in tool.items("functionDeclarations")]
        found += [
            Tool(name, hosted={name: value})
            for name, value in tool.data.items()
            if name != "functionDeclarations" and value is not None
        ]
    return found


def _function(fields: Fields) -> Tool:
    name = fields.text("name")
    if not name:
        raise invalid(fields.at("name"), "the function's name")
    parameters = fields.object("parametersJsonSchema")
    if parameters is None:
        parameters = plain_schema(fields.object("parameters") or {})
    return Tool(name, fields.text("description"), parameters)


def _choice(choosing: Fields) -> str | None:
    config = inner(choosing, "functionCallingConfig")
    mode = config.text("mode").upper()
    allowed = config.items("allowedFunctionNames")
    if mode == "ANY" and len(allowed) == 1 and isinstance(allowed[0][1], str):
        return f"name:{allowed[0][1]}"
    return _CHOICES.get(mode)
