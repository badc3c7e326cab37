"""What a route may go by when it is asked whether it takes a request. Pure.

Law: all that `match` names must fit, and one of the model globs.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from config.schema import Match, Route
from config.values import glob_matches

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English text
ANY = Match()


class Asking(Struct, frozen=True):
    """What a route may match on, and a policy go by. `prompt`: its text, as far as it tells prompts apart; `chars`: the
    length of all of it; `headers` by lower-case name."""

    model: str = ""
    backend: str = ""
    key: str = ""
    owner: str = ""
    user: str = ""
    workspace: str = ""
    conversation: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    chars: int = 0
    max_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """The prompt's size, estimated."""
        return -(-self.chars // CHARS_PER_TOKEN)


def globs(route: Route) -> tuple[str, ...]:
    """The model globs of a route: its own and its aliases."""
    return (route.model, *route.aliases)


def fits(route: Route, model: str) -> bool:
    """Whether one of its globs does."""
    return any(glob_matches(glob, model) for glob in globs(route))


def mismatch(route: Route, model: str, asking: Asking) -> str:
    """Why a route is not taken; "" when it is."""
    if not fits(route, model):
        return f"its model is {', '.join(globs(route))}"
    match = route.match
    return "" if match == ANY else unmatched(match, asking)


def unmatched(match: Match, asking: Asking) -> str:
    """What of a request does not fit; "" when all does."""
    for name in ("key", "owner", "user", "workspace"):
        wanted, said = getattr(match, name), getattr(asking, name)
        if wanted and not any(glob_matches(glob, said) for glob in wanted):
            return f"{name} is {said[:60]!r}, not {', '.join(wanted)}"
    for name, glob in match.header.items():
        header = asking.headers.get(name.lower())
        if header is None or not glob_matches(glob, header):
            return f"header {name} is {'missing' if header is None else repr(header[:60])}, not {glob}"
    if asking.tokens < match.min_prompt:
        return f"the prompt has about {asking.tokens} tokens, fewer than {match.min_prompt}"
    if match.max_prompt and asking.tokens > match.max_prompt:
        return f"the prompt has about {asking.tokens} tokens, more than {match.max_prompt}"
    return ""


def is_glob(pattern: str) -> bool:
    """Whether it stands for several names."""
    return any(c in pattern for c in "*?[")
