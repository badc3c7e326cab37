"""A request of OpenAI's older completions API, parsed. Pure. Protocol source: its reference, "Create completion".

Law: the prompt is one user turn. What a chat has no word for (several prompts, tokens, echo, suffix, best_of) stands
beside it under its own name, so that it goes on where the backend has this API and is refused where it has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.contract.request import ChatRequest, Message, OtherPart, Part, TextPart
from gateway.protocols.base import Asked
from gateway.protocols.openai_chat_request import asked_of, read_model
from gateway.protocols.parsing import Fields, decode_object, encodable, invalid

# Fields read below, or that belong to the transport of the answer; every other one goes to `extra`.
_READ = frozenset(
    {
        "best_of",
        "echo",
        "frequency_penalty",
        "logprobs",
        "max_tokens",
        "metadata",
        "model",
        "n",
        "presence_penalty",
        "prompt",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_k",
        "top_p",
        "user",
    }
)


def read_completions(body: bytes, dialect: str) -> Asked:
    """A request. Raises BackendError INVALID_REQUEST naming the field."""
    fields = Fields(decode_object(body))
    return asked_of(fields, _request(fields, dialect))


def _request(fields: Fields, dialect: str) -> ChatRequest:
    n, logprobs = fields.integer("n", low=1), fields.integer("logprobs", low=0)
    content = (*_prompt(fields), *_only_here(fields))
    single = content[0].text if len(content) == 1 and isinstance(content[0], TextPart) else ""
    return ChatRequest(
        model=read_model(fields),
        messages=(Message("user", single or content),),
        max_tokens=fields.integer("max_tokens", low=0),
        temperature=fields.number("temperature", low=0),
        top_p=fields.number("top_p", low=0, high=1),
        top_k=fields.integer("top_k"),
        stop=fields.stop(),
        seed=fields.integer("seed"),
        n=1 if n is None else n,
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        metadata=fields.object("metadata") or {},
        user=fields.text("user"),
        logprobs=None if logprobs is None else True,
        top_logprobs=logprobs,
        dialect=dialect,
        extra={name: value for name, value in fields.data.items() if name not in _READ and value is not None},
    )


def _prompt(fields: Fields) -> Iterator[Part]:
    """One text; or, for servers that have this API, several, tokens, or none (a document from nothing)."""
    path, value = fields.find("prompt")
    texts = [value] if isinstance(value, str) else value
    if texts is None or texts in ([], [""]):
        yield OtherPart("an empty prompt", value)
    elif not isinstance(texts, list):
        raise invalid(path, "a string, or an array of strings or tokens")
    elif not all(isinstance(item, str) for item in texts):
        yield OtherPart("a prompt of tokens", value)
    else:
        yield from (TextPart(encodable(path, text)) for text in texts)
        if len(texts) > 1:
            yield OtherPart("several prompts", value)


def _only_here(fields: Fields) -> Iterator[Part]:
    """What this API has and a chat has not, where it would change the answer."""
    best_of = fields.integer("best_of", low=0)
    wanted: dict[str, Any] = {
        "echo": fields.flag("echo"),
        "suffix": fields.text("suffix"),
        "best_of": best_of is not None and best_of > 1,
    }
    return (OtherPart(name, fields.data[name]) for name, asked in wanted.items() if asked)
