"""Which repairs a stream gets, in one table, and the mender that applies them. Pure.

They stand between transcript and client where both speak the same dialect: the transcript keeps what the backend sent,
and decoders read all of it anyway. `backends.NAME.repairs` switches each by its name (`config.repairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from backends.base import Driver
from gateway.protocols.base import About
from gateway.protocols.repair_chat import FirstRole, ReasoningName, SplitFinish, StringError
from gateway.protocols.repair_frame import Rule
from gateway.protocols.repair_responses import ResponsesFields
from gateway.protocols.repair_tools import ToolCallIds

DONE = b"data: [DONE]\n\n"  # what `done_marker` adds

# Dialect -> the repairs that mean something in it.
FITTING: Mapping[str, frozenset[str]] = {
    "openai": frozenset(
        {
            "done_marker",
            "error_then_done",
            "first_role",
            "reasoning_name",
            "split_finish",
            "string_error",
            "tool_call_ids",
        }
    ),
    "openai_completions": frozenset({"done_marker", "error_then_done", "string_error"}),
    "openai_responses": frozenset({"responses_fields"}),
}

# (driver, dialect) -> the repairs it gets unasked; "*": every other driver of that dialect.
# `openai` stands for OpenAI itself, whose first frame is as it should be, and for mlx, transformers and the like.
_ALL = frozenset({"done_marker", "error_then_done", "string_error"})
DEFAULTS: Mapping[tuple[str, str], frozenset[str]] = {
    ("*", "openai"): _ALL | {"first_role"},
    ("openai", "openai"): _ALL | {"reasoning_name", "tool_call_ids"},
    ("vllm", "openai"): _ALL | {"first_role", "reasoning_name", "split_finish"},
    ("tgi", "openai"): _ALL | {"first_role", "tool_call_ids"},
    ("*", "openai_completions"): _ALL,
    ("*", "openai_responses"): frozenset({"responses_fields"}),
}


class Mender:
    """The repairs of one reader's view; `split` is the framer's. `adds_done`, `keeps_done`: see `done_marker` (on) and
    `error_then_done` (off)."""

    idle: bool

    def __init__(self, names: frozenset[str], rules: Iterable[Rule], split: Callable[[bytes], list[bytes]]) -> None:
        self.adds_done = "done_marker" in names
        self.keeps_done = "error_then_done" not in names
        self._rules = list(rules)
        self._split = split
        self._settle()

    def mend(self, block: bytes) -> bytes:
        """The block, mended; the very same object when nothing in it needed it."""
        wanted = [rule for rule in self._rules if rule.touches(block)]
        if not wanted:
            return block
        single = block.find(b"\n\n") == len(block) - 2 and b"\r" not in block
        frames = out = [block] if single else self._split(block)
        for rule in wanted:
            out = [made for frame in out for made in rule.mend(frame)]
        if not self.idle:
            self._settle()
        return block if out == frames else b"".join(out)

    def _settle(self) -> None:
        """`idle`: no rule is left that could touch a frame of nothing but text (only such rules are ever spent)."""
        self._rules = [rule for rule in self._rules if not rule.spent]
        self.idle = not any(rule.always for rule in self._rules)


def chosen(driver: str, dialect: str, said: Mapping[str, bool]) -> frozenset[str]:
    """The names of the repairs in force: the table's, as changed by what the configuration said."""
    names = DEFAULTS.get((driver, dialect)) or DEFAULTS.get(("*", dialect)) or frozenset()
    if not said:
        return names
    on = {name for name, wanted in said.items() if wanted}
    return ((names | on) & FITTING.get(dialect, frozenset())) - (said.keys() - on)


def mender_of(driver: Driver, about: About, split: Callable[[bytes], list[bytes]]) -> Mender | None:
    """The repairs of one view of a stream of `driver`; None: its dialect has none at all."""
    if driver.dialect not in FITTING:
        return None
    said = driver.backend.repairs
    names = chosen(driver.backend.driver, driver.dialect, said)
    return Mender(names, (_MAKE[name](about, said) for name in _ORDER if name in names), split)


_MAKE: Mapping[str, Callable[[About, Mapping[str, bool]], Rule]] = {
    "string_error": lambda _about, _said: StringError(),
    "tool_call_ids": lambda _about, _said: ToolCallIds(),
    "reasoning_name": lambda _about, said: ReasoningName(both=said.get("reasoning_name") is True),
    "first_role": lambda _about, _said: FirstRole(),
    "split_finish": lambda _about, _said: SplitFinish(),
    "responses_fields": lambda about, _said: ResponsesFields(about),
}
_ORDER = tuple(_MAKE)
