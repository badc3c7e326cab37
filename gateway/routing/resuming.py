"""Going on with a half-finished answer at another backend: whether it can be done exactly, and how it is asked.

Law: nothing is put into the prompt but the answer so far, as the assistant's own words; never within a tool call, never
after reasoning that only its own provider can read, never where a grammar would begin anew: exactly, or not at all.
Any node may call this with a transcript's answer: it depends on no running stream. Pure but for the table of drivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from backends.base import Driver, HttpRequest
from backends.contract.errors import BackendError
from backends.contract.fit import fit
from backends.contract.request import ChatRequest
from backends.transport import Transport
from gateway.protocols.base import Answer
from gateway.routing.policies import Candidate
from gateway.streams.course import Leg

# Protocols whose readers can be shown an answer that goes on elsewhere.
CONTINUED = frozenset(
    {
        "native",
        "ndjson",
        "openai",
        "openai_completions",
        "anthropic",
        "ollama",
        "ollama_generate",
        "google",
        "google_array",
    }
)
RESTARTED = frozenset({"native", "ndjson"})  # they have a word for an answer that begins anew
_RAW = frozenset({"openai_completions"})  # a prompt without turns: only the same API can go on with it


class Wanted(Struct, frozen=True):
    """What the client asked for, as the backends are asked (its route's changes made, the model's name aside).
    `protocol` and `dialect` are the client's; `began`: the dialect of the API that began the answer."""

    request: ChatRequest
    protocol: str
    dialect: str
    began: str = ""


def build_resume_leg(
    candidates: Iterable[Candidate],
    wanted: Wanted,
    answer: Answer,
    drivers: Mapping[str, Driver],
    transports: Mapping[str, Transport],
) -> Leg | None:
    """The first candidate that can go on exactly where `answer` broke off, and what it is asked; None: nobody."""
    if not resumable(wanted, answer):
        return None
    for candidate in candidates:
        for driver in _voices(drivers[candidate.backend], wanted):
            request = _asked(driver, candidate, wanted, answer)
            if request is not None:
                transport = transports[candidate.backend]
                return Leg(candidate.backend, candidate.model, driver, request, transport, kind="continue")
    return None


def resumable(wanted: Wanted, answer: Answer) -> bool:
    """Whether an answer may be gone on with at all, wherever."""
    request = wanted.request
    whole = answer.tool_calls or answer.tool_results or answer.finish is not None
    sealed = answer.signature or answer.redacted
    grammar = (request.response_format or {}).get("type", "text") != "text"
    forced = bool(request.tools) and request.tool_choice not in (None, "auto", "none")
    prefilled = bool(request.messages) and request.messages[-1].role == "assistant"
    return (
        wanted.protocol in CONTINUED
        and bool(answer.text)
        and request.n == 1
        and not (whole or sealed or grammar or forced or prefilled)
    )


def _voices(driver: Driver, wanted: Wanted) -> Iterable[Driver]:
    """The backend in the client's dialect, then in its own; what began without turns goes on without turns only."""
    same = driver.speaking(wanted.dialect)
    if wanted.dialect in _RAW:
        voice = same if wanted.began in _RAW else driver
        return [voice] if voice is not None else []
    return [driver] if same is None or same is driver else [same, driver]


def _asked(driver: Driver, candidate: Candidate, wanted: Wanted, answer: Answer) -> HttpRequest | None:
    left = wanted.request.max_tokens
    if left is not None:
        left -= answer.deltas
        if left <= 0:
            return None
    request = replace(wanted.request, model=candidate.model, max_tokens=left)
    try:
        request, _dropped = fit(request, driver.expresses, candidate.backend, driver.dialect)
        return driver.resume(request, answer.text, answer.reasoning)
    except BackendError:
        return None  # it cannot be asked this at all
