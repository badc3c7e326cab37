"""What a stream used: the backend's own count, or an estimate, over all the attempts it took. Pure.

Law: the backend's own usage is taken as it is; anything else is marked as estimated. Every attempt that was answered
used its prompt once more, but only delivered tokens count as the stream's.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import astuple, replace

from backends.base import Tap
from backends.contract.events import Usage
from gateway.streams.stream import Stream

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English text; only for answers whose backend did not count


def usage_of(stream: Stream, tap: Tap | None, prompt_chars: int) -> tuple[Usage, bool]:
    """The backend's count, or an estimate and True. A partial count of a backend is kept where it is not zero; that of
    a fixed message is: nobody counted because there was nothing to count."""
    fixed = stream.degraded == "message"
    said, estimated = _counted(tap, 0 if fixed else prompt_chars) if tap else (None, False)
    if said is not None and (said.completion > 0 or stream.tokens == 0 or fixed):
        return said, estimated
    prompt = said.prompt if said and said.prompt else _tokens(prompt_chars)
    cached = said.cached if said else 0
    return Usage(prompt=prompt, completion=_completion(stream, tap), cached=cached), True


def _counted(tap: Tap, prompt_chars: int) -> tuple[Usage | None, bool]:
    """The backend's count, and whether it is partly a guess: that of an answer which broke off may be of its beginning
    only (the Messages API begins with one token), and some do not count the prompt (an Ollama that had it cached)."""
    said, estimated = tap.usage, tap.estimated
    if said is None:
        return None, estimated
    if tap.finish is None and said.completion < tap.tokens:
        said, estimated = replace(said, completion=tap.tokens), True
    if not said.prompt and prompt_chars:
        said, estimated = replace(said, prompt=_tokens(prompt_chars)), True
    return said, estimated


def _completion(stream: Stream, tap: Tap | None) -> int:
    return max(stream.tokens, tap.tokens if tap else 0) or _tokens(tap.chars if tap else 0)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


class Spent(Struct, frozen=True):
    """What attempts used up before the present one. `tokens` and `chars` are those that were delivered."""

    attempts: int = 0
    bytes_in: int = 0
    tokens: int = 0
    chars: int = 0
    usage: Usage = Usage()
    estimated: bool = False

    def before(self, tap: Tap | None, prompt_chars: int) -> Tap | None:
        """The account of the present attempt and of those before it."""
        return tap if self.attempts == 0 else _Sum(self, tap, prompt_chars)


class _Sum(Tap):
    """Read only: the sum of several attempts."""

    def __init__(self, spent: Spent, tap: Tap | None, prompt_chars: int) -> None:
        now, is_guess = (Usage(), False) if tap is None else _used(tap, prompt_chars)
        self.usage = Usage(*(b + n for b, n in zip(astuple(spent.usage), astuple(now), strict=True)))
        self.estimated = spent.estimated or is_guess
        self.tokens = spent.tokens + (tap.tokens if tap else 0)
        self.chars = spent.chars + (tap.chars if tap else 0)
        self.finish = tap.finish if tap else None
        self.done = tap.done if tap else False

    def feed(self, block: bytes) -> None:
        """Nothing is fed to a sum."""
        raise TypeError("a sum of accounts takes no bytes")


def _used(tap: Tap, prompt_chars: int) -> tuple[Usage, bool]:
    """What one attempt used, and whether it is partly a guess."""
    said, is_guess = _counted(tap, prompt_chars)
    if said is not None:
        return said, is_guess
    return Usage(prompt=_tokens(prompt_chars), completion=tap.tokens or _tokens(tap.chars)), True


def spent_with(spent: Spent, tap: Tap, bytes_in: int, prompt_chars: int, *, leading: bool) -> Spent:
    """An attempt more is over. One that was not answered at all used no prompt."""
    said, is_guess = _used(tap, prompt_chars if bytes_in else 0)
    return Spent(
        attempts=spent.attempts + 1,
        bytes_in=spent.bytes_in + bytes_in,
        tokens=spent.tokens + (tap.tokens if leading else 0),
        chars=spent.chars + (tap.chars if leading else 0),
        usage=Usage(*(b + n for b, n in zip(astuple(spent.usage), astuple(said), strict=True))),
        estimated=spent.estimated or is_guess,
    )
