"""The Responses API of a backend whose chat completions another driver speaks: `Driver.speaking("openai_responses")`.

Not a driver of its own in gateway.yaml. Protocol source: the OpenAI API reference, "Create a model response". Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from backends.base import Decoder, Driver, HttpRequest, Tap
from backends.contract.errors import BackendError
from backends.contract.fit import Feature
from backends.contract.request import ChatRequest
from backends.hosted_tools import unsaid
from backends.openai_responses_request import responses_body
from backends.openai_responses_stream import DIALECT, ResponsesDecoder
from backends.openai_responses_tap import ResponsesTap
from config.schema import Backend

Post = Callable[[str, dict[str, Any]], HttpRequest]  # a path below the server's prefix, and a body
Fail = Callable[[int, Mapping[str, str], bytes], BackendError]


_OURS = re.compile(r"rs_[A-Za-z0-9_-]+_[0-9]+")  # the reasoning items of this gateway's own answers


class Responses(Driver):
    """`post` and `fail` are those of the driver it belongs to; `extra` is added to every body (the client's wins)."""

    dialect = DIALECT
    expresses: ClassVar[frozenset[Feature]] = frozenset(Feature) - {
        Feature.CACHE_CONTROL,
        Feature.CHOICES,
        Feature.OTHER_PARTS,
        Feature.PENALTIES,
        Feature.REASONING_BUDGET,
        Feature.SEED,
        Feature.STOP,
        Feature.TOOL_ERRORS,
        Feature.TOP_K,
    }

    def __init__(self, name: str, backend: Backend, post: Post, fail: Fail, extra: dict[str, Any]) -> None:
        super().__init__(name, backend)
        self._post = post
        self._fail = fail
        self._extra = extra

    def prepare(self, request: ChatRequest) -> HttpRequest:
        return self.forward(responses_body(request), request.model)

    def drops(self, request: ChatRequest) -> tuple[str, ...]:
        return unsaid(self.dialect, request)

    def forward(self, body: dict[str, Any], model: str) -> HttpRequest:
        """`background` stays here: the gateway is what keeps a stream running after its client has left."""
        whole = {**self._extra, **body, "model": model, "stream": True}
        whole.pop("background", None)
        if isinstance(body.get("input"), list):
            whole["input"] = [item for item in body["input"] if not _foreign(item)]
        return self._post("/responses", whole)

    def decoder(self) -> Decoder:
        return ResponsesDecoder(self.secrets)

    def tap(self) -> Tap:
        return ResponsesTap(self.decoder())

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        return self._fail(status, headers, body)


def _foreign(item: Any) -> bool:
    """Reasoning another provider did, in an earlier turn translated here: this one would refuse it as not its own."""
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    return _OURS.fullmatch(str(item.get("id"))) is not None
