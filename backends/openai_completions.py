"""The older completions API of OpenAI-compatible servers, `{prefix}/completions`: a prompt, and text after it. Pure.

Not a driver of its own: the sibling of an OpenAI-compatible driver for clients that ask in this API (Passthrough).
Protocol source: the OpenAI API reference, "Create completion". The frames differ from chat's in one field,
`choices[].text`, which the same decoder reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from backends import wire
from backends.base import Decoder, Driver, HttpRequest, Tap
from backends.contract.errors import BackendError
from backends.contract.fit import Feature
from backends.contract.request import ChatRequest
from backends.openai_stream import OpenAIDecoder
from backends.tap import DecoderTap
from config.schema import Backend

DIALECT = "openai_completions"
Post = Callable[[str, dict[str, Any]], HttpRequest]  # a path below the server's prefix, and a body
Fail = Callable[[int, Mapping[str, str], bytes], BackendError]


class Completions(Driver):
    """`post` and `fail` are those of the driver it belongs to; `extra` is added to every body (the client's wins)."""

    dialect = DIALECT
    expresses: ClassVar[frozenset[Feature]] = frozenset(
        {
            Feature.CHOICES,
            Feature.EXTRA,
            Feature.LOGPROBS,
            Feature.PENALTIES,
            Feature.SEED,
            Feature.STOP,
            Feature.TEMPERATURE,
            Feature.TOP_K,
            Feature.TOP_P,
            Feature.USER,
        }
    )
    continues: ClassVar[str] = "by the prompt"

    def __init__(
        self,
        name: str,
        backend: Backend,
        post: Post,
        fail: Fail,
        extra: dict[str, Any],
        *,
        done_marker: bool | None,
        goes_on: bool,
    ) -> None:
        super().__init__(name, backend)
        self._post = post
        self._fail = fail
        self._extra = extra
        self._done_marker = done_marker
        self._goes_on = goes_on

    def prepare(self, request: ChatRequest) -> HttpRequest:
        """The turns as one text: the server adds no template of its own."""
        said = wire.drop_none(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            stop=list(request.stop),
            seed=request.seed,
            n=request.n if request.n != 1 else None,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            user=request.user,
        )
        own = request.extra if request.dialect == DIALECT else {}
        return self.forward({**own, **said, "prompt": "\n".join(m.text() for m in request.messages)}, request.model)

    def resume(self, request: ChatRequest, so_far: str, reasoning: str) -> HttpRequest | None:
        """The prompt with the answer so far after it, as the model saw them: for a single prompt of text only."""
        if not self._goes_on or len(request.messages) != 1 or not isinstance(request.messages[0].content, str):
            return None
        turn = msgspec.structs.replace(request.messages[0], content=request.messages[0].content + so_far)
        return self.prepare(msgspec.structs.replace(request, messages=(turn,)))

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        return self._post("/completions", streaming({**self._extra, **body}, model))

    def decoder(self) -> Decoder:
        return OpenAIDecoder(self.secrets, self._done_marker)

    def tap(self) -> Tap:
        return DecoderTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return self._fail(status, headers, body)


def streaming(body: dict[str, Any], model: str) -> dict[str, Any]:
    """A body of either API that asks for a stream and its usage."""
    said = body.get("stream_options")
    options = {**(said if isinstance(said, dict) else {}), "include_usage": True}
    return {**body, "model": model, "stream": True, "stream_options": options}
