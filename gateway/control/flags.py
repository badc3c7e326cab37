"""What operators have set at runtime, as one immutable value, and what it means for a new stream. Pure.

Law: the value that `ControlState()` makes is the safe default: everything serves, nothing is killed. Each change makes
a new value with the next version. Times are Unix seconds (rules outlive processes); `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from config.schema import Mode
from config.values import Duration, glob_matches

Kind = Literal["backend", "model", "route", "key", "owner", "user", "all"]
PauseKind = Literal["backend", "model"]
KINDS: tuple[str, ...] = get_args(Kind)
_TEXT = 200  # characters of a reason or name


class Rollout(Struct, frozen=True):
    """Which part of the users may stream: `percent` of them, always the same ones for the same `salt`. `off`: what the
    others get, a 404 or the whole answer at once. Rolled back to 0 when, of at least `minimum` streams that ended
    within `window` seconds, more than `error_rate` failed or fewer than `completion_rate` completed."""

    percent: float = 100.0
    salt: str = "headgate"
    off: Literal["404", "whole"] = "404"
    automatic: bool = True
    error_rate: float = 0.02
    completion_rate: float = 0.95
    window: float = 300.0
    minimum: int = 50


class Rule(Struct, frozen=True):
    """A kill: streams it matches end at once and no new ones start until `until` (0: until it is lifted)."""

    id: str
    kind: Kind
    match: str
    reason: str = ""
    by: str = ""
    at: float = 0.0
    until: float = 0.0


class Pause(Struct, frozen=True):
    """Maintenance: a backend or model glob takes no new streams; running ones go on."""

    kind: PauseKind
    match: str
    reason: str = ""
    by: str = ""
    at: float = 0.0
    until: float = 0.0


class ControlState(Struct, frozen=True):
    """Everything operators can set. `routes`: those (by model glob) whose streaming is off or on apart from the rest;
    `mode`: instead of `streams.mode`; None: as configured; `rollout_version`: the version that set the rollout as it
    is; `resets`: backend -> the version that last closed its breaker by hand."""

    version: int = 0
    streaming: bool = True
    background: bool = True
    routes: dict[str, bool] = {}
    mode: Mode | None = None
    debug: bool = False
    emergency: bool = False
    rollout: Rollout = Rollout()
    rollout_version: int = 0
    resets: dict[str, int] = {}
    killed: tuple[Rule, ...] = ()
    paused: tuple[Pause, ...] = ()


class Subject(Struct, frozen=True):
    """A stream, new or running, as rules look at it. `models`: its name as the client said it, and at the backend;
    `backends`: all that may be answering it."""

    backends: tuple[str, ...]
    models: tuple[str, ...]
    route: str
    key: str
    owner: str
    user: str


_SETTABLE = frozenset({"streaming", "background", "routes", "mode", "debug", "emergency", "rollout"})


class Invalid(ValueError):
    """A change that cannot be made; its text says why."""


def patched(state: ControlState, patch: Mapping[str, Any]) -> ControlState:
    """The state with some fields set (`routes` and `rollout` are merged; a route set to null is as the rest again).
    Raises Invalid."""
    unknown = sorted(set(patch) - _SETTABLE)
    if unknown:
        raise Invalid(f"'{unknown[0]}' cannot be set; known: {', '.join(sorted(_SETTABLE))}")
    fields: dict[str, Any] = {name: getattr(state, name) for name in patch}
    for name, value in patch.items():
        fields[name] = _merged(fields[name], name, value)
    try:
        new = msgspec.convert({**msgspec.to_builtins(state), **fields}, ControlState)
    except msgspec.ValidationError as problem:
        raise Invalid(str(problem)) from None
    _check(new.rollout)
    return new


def _merged(before: Any, name: str, value: Any) -> Any:
    if name not in ("routes", "rollout"):
        return value
    if not isinstance(value, Mapping):
        raise Invalid(f"'{name}' must be an object")
    unknown = sorted(set(value) - set(Rollout.__struct_fields__)) if name == "rollout" else []
    if unknown:
        raise Invalid(f"'rollout.{unknown[0]}' cannot be set; known: {', '.join(Rollout.__struct_fields__)}")
    whole = {**msgspec.to_builtins(before), **value}
    return {k: v for k, v in whole.items() if v is not None} if name == "routes" else whole


def _check(rollout: Rollout) -> None:
    for name, value, most in (
        ("percent", rollout.percent, 100.0),
        ("error_rate", rollout.error_rate, 1.0),
        ("completion_rate", rollout.completion_rate, 1.0),
    ):
        if not 0 <= value <= most:
            raise Invalid(f"rollout.{name} must be from 0 to {most:g}")
    if not 1 <= rollout.window <= 86400 or rollout.minimum < 1:
        raise Invalid("rollout.window must be from 1 to 86400 seconds, rollout.minimum at least 1")


def rule_of(wish: Mapping[str, Any], rule_id: str, by: str, now: float) -> Rule:
    """A kill as the API says it: exactly one of backend, model, route, key, owner, user (a name) or all (true), with
    `reason` and `for`. Raises Invalid."""
    kind, match = _target(wish, KINDS)
    return Rule(rule_id, kind, match, _text(wish, "reason"), by, now, _until(wish, now))  # type: ignore[arg-type]


def pause_of(wish: Mapping[str, Any], by: str, now: float) -> Pause:
    """A pause as the API says it: `backend` or `model`, with `reason` and `for`. Raises Invalid."""
    kind, match = _target(wish, get_args(PauseKind))
    return Pause(kind, match, _text(wish, "reason"), by, now, _until(wish, now))  # type: ignore[arg-type]


def _target(wish: Mapping[str, Any], kinds: tuple[str, ...]) -> tuple[str, str]:
    unknown = sorted(set(wish) - set(kinds) - {"reason", "for"})
    if unknown:
        raise Invalid(f"'{unknown[0]}' is not understood; known: {', '.join(kinds)}, reason, for")
    named = [(kind, wish[kind]) for kind in kinds if wish.get(kind) not in (None, False, "")]
    if len(named) != 1:
        raise Invalid(f"name exactly one of {', '.join(kinds)}")
    kind, match = named[0]
    if kind == "all":
        if match is not True:
            raise Invalid("'all' must be true")
        return kind, "*"
    if not isinstance(match, str) or len(match) > _TEXT:
        raise Invalid(f"'{kind}' must be a name of at most {_TEXT} characters")
    return kind, match


def _text(wish: Mapping[str, Any], name: str) -> str:
    said = wish.get(name, "")
    if not isinstance(said, str):
        raise Invalid(f"'{name}' must be a text")
    return "".join(c for c in said[:_TEXT] if c.isprintable())


def _until(wish: Mapping[str, Any], now: float) -> float:
    said = wish.get("for")
    if said is None:
        return 0.0
    try:
        seconds = Duration.parse(said)
    except (ValueError, AttributeError, TypeError):
        raise Invalid("'for' must be a duration such as 30s, 5m or 2h") from None
    if seconds <= 0:
        raise Invalid("'for' must be longer than nothing")
    return now + seconds


def current(state: ControlState, now: float) -> ControlState:
    """The state without the rules and pauses whose time is over; the same version: nobody changed anything."""
    killed = tuple(rule for rule in state.killed if not 0 < rule.until <= now)
    paused = tuple(pause for pause in state.paused if not 0 < pause.until <= now)
    if len(killed) == len(state.killed) and len(paused) == len(state.paused):
        return state
    return replace(state, killed=killed, paused=paused)


def hits(rule: Rule | Pause, subject: Subject) -> bool:
    """Whether a rule or pause is about a stream. Models fit by glob, all else by name."""
    if rule.kind == "all":
        return True
    if rule.kind == "model":
        return any(glob_matches(rule.match, model) for model in subject.models)
    if rule.kind == "backend":
        return rule.match in subject.backends
    return bool(rule.match) and str(getattr(subject, rule.kind)) == rule.match
