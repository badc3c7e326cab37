"""Everything a client can ask for, in the words of each API: the fields of a request beyond the plainest one.

Written from the APIs' references. A feature that is missing under an API cannot be asked for in it.
"""

from __future__ import annotations

from typing import Any

from support.asks_openai import (
    CHAT,
    COMPLETIONS,
    NATIVE,
    OPENAI,
    PAPER,
    PDF,
    PICTURE,
    PNG,
    RESPONSES,
    SCHEMA,
    TOOLS,
    WAV,
    Json,
    sampling,
    user,
)


def _blocks(*blocks: Json) -> Json:
    return {"messages": [user([{"type": "text", "text": "hi"}, *blocks])]}


_BARE = [{"name": "weather", "description": "The weather", "input_schema": SCHEMA}]
_EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
_ANTHROPIC: Json = {
    "temperature, top_p": {"temperature": 0.5, "top_p": 0.25},
    "max tokens": {"max_tokens": 77},
    "top_k": {"top_k": 7},
    "stop sequences": {"stop_sequences": ["END", "☕"]},
    "system": {"system": "Be brief."},
    "several turns": OPENAI["several turns"],
    "tools": {"tools": _BARE},
    "tool choice: any": {"tools": _BARE, "tool_choice": {"type": "any"}},
    "tool choice: by name": {"tools": _BARE, "tool_choice": {"type": "tool", "name": "weather"}},
    "no parallel tools": {"tools": _BARE, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "tool results": {
        "tools": _BARE,
        "messages": [
            user("hi"),
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "call_7", "name": "weather", "input": {"city": "Paris"}}],
            },
            user([{"type": "tool_result", "tool_use_id": "call_7", "content": "18 degrees"}]),
        ],
    },
    "images": _blocks({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}),
    "images by URL": _blocks({"type": "image", "source": {"type": "url", "url": PICTURE}}),
    "files": _blocks(
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        }
    ),
    "files by URL": _blocks({"type": "document", "source": {"type": "url", "url": PAPER}}),
    "JSON schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "reasoning effort": {"output_config": {"effort": "medium"}},
    "reasoning budget": {"thinking": {"type": "enabled", "budget_tokens": 4096}, "max_tokens": 8192},
    "reasoning of earlier turns": {
        "messages": [
            user("hi"),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                    {"type": "text", "text": "ho"},
                ],
            },
            user("ha"),
        ]
    },
    "user": {"metadata": {"user_id": "u1"}},
    "cache control": {"messages": [user([{"type": "text", "text": "hi", **_EPHEMERAL}])]},
    "tools at the provider": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "a field of its own": {"service_tier": "standard_only"},
}

_OPTIONS = {name: {"options": value} for name, value in sampling().items() if name != "max tokens"}
_GENERATE: Json = {
    **_OPTIONS,
    "max tokens": {"options": {"num_predict": 77}},
    "system": {"system": "Be brief."},
    "images": {"images": [PNG]},
    "JSON schema": {"format": SCHEMA},
    "JSON mode": {"format": "json"},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "reasoning effort": {"think": True},
    "a field of its own": {"keep_alive": "5m"},
}
_OLLAMA: Json = {
    **_GENERATE,
    "system": OPENAI["system"],
    "several turns": OPENAI["several turns"],
    "tools": {"tools": TOOLS},
    "tool results": {
        "tools": TOOLS,
        "messages": [
            user("hi"),
            {"role": "assistant", "content": "",
             "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]},
            {"role": "tool", "tool_name": "weather", "content": "18 degrees"},
        ],
    },
    "images": {"messages": [{**user("hi"), "images": [PNG]}]},
    "reasoning of earlier turns": {
        "messages": [user("hi"), {"role": "assistant", "content": "ho", "thinking": "hm"}, user("ha")]
    },
}  # fmt: skip


def _config(**fields: Any) -> Json:
    return {"generationConfig": fields}


def _contents(*parts: Json) -> Json:
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}, *parts]}]}


def _turn(role: str, *parts: Json) -> Json:
    return {"role": role, "parts": list(parts)}


def _calling(**fields: Any) -> Json:
    return {"tools": _DECLARED, "toolConfig": {"functionCallingConfig": fields}}


_DECLARED = [{"functionDeclarations": [
    {"name": "weather", "description": "The weather", "parametersJsonSchema": SCHEMA}]}]  # fmt: skip
_GOOGLE: Json = {
    "temperature, top_p": _config(temperature=0.5, topP=0.25),
    "max tokens": _config(maxOutputTokens=77),
    "top_k": _config(topK=7),
    "seed": _config(seed=5),
    "penalties": _config(presencePenalty=0.5, frequencyPenalty=0.25),
    "stop sequences": _config(stopSequences=["END", "☕"]),
    "system": {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
    "several turns": {
        "contents": [_turn("user", {"text": "hi"}), _turn("model", {"text": "ho"}), _turn("user", {"text": "ha ☕"})]
    },
    "tools": {"tools": _DECLARED},
    "tool choice: any": _calling(mode="ANY"),
    "tool choice: by name": _calling(mode="ANY", allowedFunctionNames=["weather"]),
    "tool results": {
        "tools": _DECLARED,
        "contents": [
            _turn("user", {"text": "hi"}),
            _turn("model", {"functionCall": {"name": "weather", "args": {"city": "Paris"}}}),
            _turn("user", {"functionResponse": {"name": "weather", "response": {"result": "18 degrees"}}}),
        ],
    },
    "images": _contents({"inlineData": {"mimeType": "image/png", "data": PNG}}),
    "images by URL": _contents({"fileData": {"fileUri": PICTURE, "mimeType": "image/png"}}),
    "files": _contents({"inlineData": {"mimeType": "application/pdf", "data": PDF}}),
    "files by URL": _contents({"fileData": {"fileUri": PAPER, "mimeType": "application/pdf"}}),
    "audio": _contents({"inlineData": {"mimeType": "audio/wav", "data": WAV}}),
    "JSON schema": _config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
    "JSON mode": _config(responseMimeType="application/json"),
    "n": _config(candidateCount=2),
    "logprobs": _config(responseLogprobs=True, logprobs=2),
    "reasoning effort": _config(thinkingConfig={"thinkingLevel": "medium"}),
    "reasoning budget": _config(thinkingConfig={"thinkingBudget": 4096}),
    "reasoning of earlier turns": {
        "contents": [
            _turn("user", {"text": "hi"}),
            _turn("model", {"text": "hm", "thought": True, "thoughtSignature": "c2ln"}, {"text": "ho"}),
            _turn("user", {"text": "ha"}),
        ]
    },
    "tools at the provider": {"tools": [{"googleSearch": {}}]},
    "a field of its own": {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
}

ASKS: dict[str, Json] = {
    "native": NATIVE,
    "openai": CHAT,
    "openai_completions": COMPLETIONS,
    "openai_responses": RESPONSES,
    "anthropic": _ANTHROPIC,
    "ollama": _OLLAMA,
    "ollama_generate": _GENERATE,
    "google": _GOOGLE,
}
FEATURES = tuple(dict.fromkeys(name for asks in (CHAT, _ANTHROPIC, *ASKS.values()) for name in asks))
