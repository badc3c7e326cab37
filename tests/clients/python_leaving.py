"""How each Python client leaves an answer in its middle: its generator is closed, as by `break` and by Flask or Django.

A stream gives (text, id): the stream's id where the SDK shows the response's headers before its end, else "".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

Stream = Generator[tuple[str, str], None, None]
USER = [("user", "hi")]


def _id(headers: Mapping[str, str]) -> str:
    return {name.lower(): value for name, value in headers.items()}.get("x-stream-id", "")


def _chain(model: Any) -> Stream:
    stream = model.stream(USER)
    try:
        for chunk in stream:
            yield chunk.text, _id(chunk.response_metadata.get("headers", {}))
    finally:
        stream.close()


def langchain_openai(base: str) -> Stream:
    from langchain_openai import ChatOpenAI

    return _chain(
        ChatOpenAI(model="m", base_url=f"{base}/v1", api_key="k", max_retries=0, include_response_headers=True)
    )


def langchain_anthropic(base: str) -> Stream:
    from langchain_anthropic import ChatAnthropic

    return _chain(ChatAnthropic(model="m", base_url=base, api_key="k", max_retries=0, max_tokens=64))


def langchain_ollama(base: str) -> Stream:
    from langchain_ollama import ChatOllama

    return _chain(ChatOllama(model="m", base_url=base))


def google_genai(base: str) -> Stream:
    from google import genai

    sdk = genai.Client(api_key="k", http_options={"base_url": base})
    stream = sdk.models.generate_content_stream(model="m", contents="hi")
    try:
        for chunk in stream:
            yield chunk.text or "", _id(chunk.sdk_http_response.headers)
    finally:
        stream.close()


STREAMS: dict[str, Callable[[str], Stream]] = {
    "langchain-openai": langchain_openai,
    "langchain-anthropic": langchain_anthropic,
    "langchain-ollama": langchain_ollama,
    "google-genai": google_genai,
}


def leave(
    begin: Callable[[str], Stream], base: str, until: str, tell: Callable[..., None], word: Callable[[], str]
) -> dict[str, str]:
    """Read until the text ends so; tell the id and wait for a word: `leave`, or `read` on, to the end or an error."""
    stream, text, error, stream_id = begin(base), "", "", ""
    while not text.endswith(until):
        piece, shown = next(stream)
        text, stream_id = text + piece, stream_id or shown
    tell(text=text, id=stream_id)
    if word() == "leave":
        stream.close()
    try:
        for _ in stream:
            pass
    except Exception as raised:  # whatever it is, the test wants to see it
        error = f"{type(raised).__name__}: {raised}"
    return {"text": text, "error": error}
