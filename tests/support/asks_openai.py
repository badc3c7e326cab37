"""Everything a client can ask for, in the words of OpenAI's APIs and of ours; the others' are in `support.asks`.

Written from the APIs' references. A feature that is missing under an API cannot be asked for in it.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PNG, PDF, WAV = "iVBORw0KGgo=", "JVBERi0xLjQ=", "UklGRg=="
PICTURE, PAPER = "https://h.test/a.png", "https://h.test/a.pdf"
ARGUMENTS = '{"city":"Paris"}'


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def sampling() -> Json:
    """temperature, top_p and so on under the same names as in OpenAI's API."""
    return {
        "temperature, top_p": {"temperature": 0.5, "top_p": 0.25},
        "max tokens": {"max_tokens": 77},
        "top_k": {"top_k": 7},
        "seed": {"seed": 5},
        "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.25},
        "stop sequences": {"stop": ["END", "☕"]},
    }


FUNCTION: Json = {"name": "weather", "description": "The weather", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
_CALL = {"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
_FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def _part(kind: str, value: Any) -> Json:
    return {"messages": [user([{"type": "text", "text": "hi"}, {"type": kind, kind: value}])]}


OPENAI: Json = {
    **sampling(),
    "system": {"messages": [{"role": "system", "content": "Be brief."}, user("hi")]},
    "several turns": {"messages": [user("hi"), {"role": "assistant", "content": "ho"}, user("ha ☕")]},
    "tools": {"tools": TOOLS},
    "tool choice: any": {"tools": TOOLS, "tool_choice": "required"},
    "tool choice: by name": {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "no parallel tools": {"tools": TOOLS, "parallel_tool_calls": False},
    "tool results": {
        "tools": TOOLS,
        "messages": [
            user("hi"),
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_7", "content": "18 degrees"},
        ],
    },
    "images": _part("image_url", {"url": f"data:image/png;base64,{PNG}"}),
    "images by URL": _part("image_url", {"url": PICTURE}),
    "files": _part("file", {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}),
    "audio": _part("input_audio", {"data": WAV, "format": "wav"}),
    "JSON schema": {"response_format": _FORM},
    "JSON mode": {"response_format": {"type": "json_object"}},
    "reasoning effort": {"reasoning_effort": "medium"},
    "reasoning of earlier turns": {
        "messages": [user("hi"), {"role": "assistant", "content": "ho", "reasoning_content": "hm"}, user("ha")]
    },
}

CHAT: Json = {
    **OPENAI,
    "n": {"n": 2},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "metadata": {"metadata": {"team": "a"}},
    "user": {"user": "u1"},
    "a field of its own": {"service_tier": "flex"},
}

NATIVE: Json = {**OPENAI, "reasoning budget": {"reasoningBudget": 4096}}

COMPLETIONS: Json = {
    **sampling(),
    "n": {"n": 2},
    "logprobs": {"logprobs": 2},
    "user": {"user": "u1"},
    "a field of its own": {"suffix": "and so on"},
}


def _input(*parts: Json) -> Json:
    return {"input": [user([{"type": "input_text", "text": "hi"}, *parts])]}


_FLAT = [{"type": "function", **FUNCTION}]
RESPONSES: Json = {
    "temperature, top_p": {"temperature": 0.5, "top_p": 0.25},
    "max tokens": {"max_output_tokens": 77},
    "system": {"instructions": "Be brief."},
    "several turns": {"input": [user("hi"), {"role": "assistant", "content": "ho"}, user("ha ☕")]},
    "tools": {"tools": _FLAT},
    "tool choice: any": {"tools": _FLAT, "tool_choice": "required"},
    "tool choice: by name": {"tools": _FLAT, "tool_choice": {"type": "function", "name": "weather"}},
    "no parallel tools": {"tools": _FLAT, "parallel_tool_calls": False},
    "tool results": {
        "tools": _FLAT,
        "input": [
            user("hi"),
            {"type": "function_call", "call_id": "call_7", "name": "weather", "arguments": ARGUMENTS},
            {"type": "function_call_output", "call_id": "call_7", "output": "18 degrees"},
        ],
    },
    "images": _input({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}),
    "images by URL": _input({"type": "input_image", "image_url": PICTURE, "detail": "auto"}),
    "files": _input({"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}),
    "files by URL": _input({"type": "input_file", "file_url": PAPER}),
    "JSON schema": {"text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}},
    "JSON mode": {"text": {"format": {"type": "json_object"}}},
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "reasoning effort": {"reasoning": {"effort": "medium"}},
    "reasoning of earlier turns": {
        "input": [
            user("hi"),
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": "ho"},
            user("ha"),
        ]
    },
    "metadata": {"metadata": {"team": "a"}},
    "user": {"user": "u1"},
    "tools at the provider": {"tools": [{"type": "web_search"}]},
    "a field of its own": {"service_tier": "flex"},
}
