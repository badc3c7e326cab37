"""Everything a client can ask for, as the JSON each kind of server must get; written from the APIs' references."""

from __future__ import annotations

from typing import Any

from support.asks_openai import ARGUMENTS, FUNCTION, PAPER, PDF, PICTURE, PNG, SCHEMA, WAV

Json = dict[str, Any]


class Same:
    """Equal to any text, but to the same one each time."""

    def __init__(self) -> None:
        self._text = ""

    def holds(self, value: Any) -> bool:
        """Whether this is the text seen before, or the first one."""
        self._text = self._text or value
        return isinstance(value, str) and bool(value) and value == self._text


class Nothing:
    """The field must be absent."""


class Kind:
    """Any value of this type."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


def _user(content: Any) -> Json:
    return {"role": "user", "content": content}


def _seen(*parts: Json) -> Json:
    return {"messages": [_user([{"type": "text", "text": "hi"}, *parts])]}


_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}


def chat() -> Json:
    call = Same()
    called = {"id": call, "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    return {
        "system": {"messages": [{"role": "system", "content": "Be brief."}, _user("hi")]},
        "several turns": {"messages": [_user("hi"), {"role": "assistant", "content": "ho"}, _user("ha ☕")]},
        "max tokens": {"max_tokens": 77},
        "temperature, top_p": {"temperature": 0.5, "top_p": 0.25},
        "seed": {"seed": 5},
        "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.25},
        "stop sequences": {"stop": ["END", "☕"]},
        "tools": _TOOLS,
        "tool choice: any": {**_TOOLS, "tool_choice": "required"},
        "tool choice: by name": {**_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        "no parallel tools": {**_TOOLS, "parallel_tool_calls": False},
        "tool results": {
            "messages": [
                _user("hi"),
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": call, "content": "18 degrees"},
            ]
        },
        "images": _seen({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
        "images by URL": _seen({"type": "image_url", "image_url": {"url": PICTURE}}),
        "files": _seen(
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": Kind(str)}}
        ),
        "audio": _seen({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}),
        "JSON schema": {
            "response_format": {"type": "json_schema", "json_schema": {"name": Kind(str), "schema": SCHEMA}}
        },
        "JSON mode": {"response_format": {"type": "json_object"}},
        "logprobs": {"logprobs": True, "top_logprobs": 2},
        "n": {"n": 2},
        "reasoning effort": {"reasoning_effort": "medium"},
        "reasoning budget": {"reasoning_effort": "medium"},
        "user": {"user": "u1"},
    }


def openai() -> Json:
    """What chat completions have no word for arrives at its Responses API, which keeps no copy."""
    paper = _user([{"type": "input_text", "text": "hi"}, {"type": "input_file", "file_url": PAPER}])
    return {
        **chat(),
        "files by URL": {"input": [paper], "store": False},
        "tools at the provider": {"tools": [{"type": "web_search"}], "store": False},
    }


def local() -> Json:
    """Servers of one's own: top_k, and reasoning goes back."""
    turns = [_user("hi"), {"role": "assistant", "content": "ho", "reasoning_content": "hm"}, _user("ha")]
    return {**chat(), "top_k": {"top_k": 7}, "reasoning of earlier turns": {"messages": turns}}


def llamacpp() -> Json:
    return {
        **local(),
        "tool choice: by name": {**_TOOLS, "tool_choice": "required"},
        "reasoning effort": {"reasoning_effort": "medium", "thinking_budget_tokens": 4096},
        "reasoning budget": {"reasoning_effort": Nothing(), "thinking_budget_tokens": 4096},
    }


def tgi() -> Json:
    return {**chat(), "JSON schema": {"response_format": {"type": "json", "value": SCHEMA}}}


def generate() -> Json:
    return {
        "system": {"inputs": "system: Be brief.\nuser: hi\nassistant:"},
        "several turns": {"inputs": "user: hi\nassistant: ho\nuser: ha ☕\nassistant:"},
        "max tokens": {"parameters": {"max_new_tokens": 77}},
        "temperature, top_p": {"parameters": {"temperature": 0.5, "top_p": 0.25}},
        "top_k": {"parameters": {"top_k": 7}},
        "seed": {"parameters": {"seed": 5}},
        "stop sequences": {"parameters": {"stop": ["END", "☕"]}},
        "logprobs": {"parameters": {"top_n_tokens": 2}},
    }


def _said(role: str, *blocks: Json) -> Json:
    return {"role": role, "content": list(blocks)}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def anthropic() -> Json:
    call = Same()
    tools = {"tools": [{"name": "weather", "description": "The weather", "input_schema": SCHEMA}]}

    def shown(kind: str, source: Json) -> Json:
        return {"messages": [_said("user", _text("hi"), {"type": kind, "source": source})]}

    return {
        "system": {"system": "Be brief.", "messages": [_said("user", _text("hi"))]},
        "several turns": {
            "messages": [_said("user", _text("hi")), _said("assistant", _text("ho")), _said("user", _text("ha ☕"))]
        },
        "max tokens": {"max_tokens": 77},
        "temperature, top_p": {"temperature": 0.5, "top_p": 0.25},
        "top_k": {"top_k": 7},
        "stop sequences": {"stop_sequences": ["END", "☕"]},
        "tools": tools,
        "tool choice: any": {**tools, "tool_choice": {"type": "any"}},
        "tool choice: by name": {**tools, "tool_choice": {"type": "tool", "name": "weather"}},
        "no parallel tools": {**tools, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "tool results": {
            "messages": [
                _said("user", _text("hi")),
                _said("assistant", {"type": "tool_use", "id": call, "name": "weather", "input": {"city": "Paris"}}),
                _said("user", {"type": "tool_result", "tool_use_id": call, "content": "18 degrees"}),
            ]
        },
        "images": shown("image", {"type": "base64", "media_type": "image/png", "data": PNG}),
        "images by URL": shown("image", {"type": "url", "url": PICTURE}),
        "files": shown("document", {"type": "base64", "media_type": "application/pdf", "data": PDF}),
        "files by URL": shown("document", {"type": "url", "url": PAPER}),
        "tools at the provider": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "JSON schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "reasoning effort": {"thinking": {"type": "enabled", "budget_tokens": Kind(int)}, "max_tokens": Kind(int)},
        "reasoning budget": {"thinking": {"type": "enabled", "budget_tokens": 4096}, "max_tokens": Kind(int)},
        "user": {"metadata": {"user_id": "u1"}},
    }


def _turn(role: str, *parts: Json) -> Json:
    return {"role": role, "parts": list(parts)}


def google() -> Json:
    tools = {
        "tools": [
            {"functionDeclarations": [
                {"name": "weather", "description": "The weather", "parametersJsonSchema": SCHEMA}]}
        ]
    }  # fmt: skip

    def shown(part: Json) -> Json:
        return {"contents": [_turn("user", {"text": "hi"}, part)]}

    def config(**fields: Any) -> Json:
        return {"generationConfig": fields}

    def calling(**fields: Any) -> Json:
        return {**tools, "toolConfig": {"functionCallingConfig": fields}}

    return {
        "system": {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [_turn("user", {"text": "hi"})],
        },
        "several turns": {
            "contents": [
                _turn("user", {"text": "hi"}),
                _turn("model", {"text": "ho"}),
                _turn("user", {"text": "ha ☕"}),
            ]
        },
        "max tokens": config(maxOutputTokens=77),
        "temperature, top_p": config(temperature=0.5, topP=0.25),
        "top_k": config(topK=7),
        "seed": config(seed=5),
        "penalties": config(presencePenalty=0.5, frequencyPenalty=0.25),
        "stop sequences": config(stopSequences=["END", "☕"]),
        "tools": tools,
        "tool choice: any": calling(mode="ANY", allowedFunctionNames=Nothing()),
        "tool choice: by name": calling(mode="ANY", allowedFunctionNames=["weather"]),
        "tool results": {
            "contents": [
                _turn("user", {"text": "hi"}),
                _turn("model", {"functionCall": {"name": "weather", "args": {"city": "Paris"}}}),
                _turn("user", {"functionResponse": {"name": "weather", "response": {"result": "18 degrees"}}}),
            ]
        },
        "images": shown({"inlineData": {"mimeType": "image/png", "data": PNG}}),
        "images by URL": shown({"fileData": {"fileUri": PICTURE, "mimeType": "image/png"}}),
        "files": shown({"inlineData": {"mimeType": "application/pdf", "data": PDF}}),
        "files by URL": shown({"fileData": {"fileUri": PAPER, "mimeType": "application/pdf"}}),
        "audio": shown({"inlineData": {"mimeType": "audio/wav", "data": WAV}}),
        "JSON schema": config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
        "tools at the provider": {"tools": [{"googleSearch": {}}]},
        "JSON mode": config(responseMimeType="application/json"),
        "logprobs": config(responseLogprobs=True, logprobs=2),
        "n": config(candidateCount=2),
        "reasoning effort": config(thinkingConfig={"thinkingBudget": Kind(int), "includeThoughts": True}),
        "reasoning budget": config(thinkingConfig={"thinkingBudget": 4096, "includeThoughts": True}),
    }


def ollama() -> Json:
    def options(**fields: Any) -> Json:
        return {"options": fields}

    called = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    return {
        "system": {"messages": [{"role": "system", "content": "Be brief."}, _user("hi")]},
        "several turns": {"messages": [_user("hi"), {"role": "assistant", "content": "ho"}, _user("ha ☕")]},
        "max tokens": options(num_predict=77),
        "temperature, top_p": options(temperature=0.5, top_p=0.25),
        "top_k": options(top_k=7),
        "seed": options(seed=5),
        "penalties": options(presence_penalty=0.5, frequency_penalty=0.25),
        "stop sequences": options(stop=["END", "☕"]),
        "tools": _TOOLS,
        "tool results": {
            "messages": [
                _user("hi"),
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_name": "weather", "content": "18 degrees"},
            ]
        },
        "images": {"messages": [{**_user("hi"), "images": [PNG]}]},
        "JSON schema": {"format": SCHEMA},
        "JSON mode": {"format": "json"},
        "logprobs": {"logprobs": True, "top_logprobs": 2},
        "reasoning effort": {"think": True},
        "reasoning budget": {"think": True},
        "reasoning of earlier turns": {
            "messages": [_user("hi"), {"role": "assistant", "content": "ho", "thinking": "hm"}, _user("ha")]
        },
    }
