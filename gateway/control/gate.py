"""Whether a new stream may start under what operators have set, and as what. Pure.

Law: every refusal says which setting refused, and when to try again if that is known.
"""

from __future__ import annotations

from msgspec import Struct

from backends.contract.errors import BackendError, ErrorCode
from gateway.access.rollout import chosen
from gateway.control.flags import ControlState, Pause, Rule, Subject, hits

_AGAIN = 30.0  # seconds, where nobody knows how long it will be
_NONE: frozenset[str] = frozenset()
_PERSONAL = frozenset({"key", "owner", "user"})  # kinds of rules about somebody, whom no retry would help


class Passed(Struct, frozen=True):
    """A stream may start. `whole`: its client gets the answer at once, not as a stream; `background`: it may go on
    without a reader; `rolled`: it belongs to the part a rollout lets in."""

    whole: bool = False
    background: bool = True
    rolled: bool = False


FREE = Passed()


def nothing_set(state: ControlState) -> bool:
    """Whether every request may start as what it is: `check` would say `FREE` of it."""
    kept_from = state.killed or state.paused or state.emergency or state.routes
    return not kept_from and state.streaming and state.background and state.rollout.percent >= 100


def check(state: ControlState, subject: Subject, *, stream: bool, background: bool, high: bool, now: float) -> Passed:
    """Decide about one request. `stream`: it asks for a stream; `background`: to go on without its client; `high`: its
    key has high priority. Raises BackendError."""
    refuse_killed(state, subject, now)
    if state.emergency and not high:
        text = "emergency mode: only keys of high priority are served"
        raise BackendError(ErrorCode.MAINTENANCE, text, retry_after=_AGAIN)
    if background and not state.background:
        raise BackendError(ErrorCode.BACKGROUND_OFF, "background answers are switched off here")
    rolled = chosen(state.rollout.salt, state.rollout.percent, subject.user or subject.owner)
    on = state.routes.get(subject.route, state.streaming)
    if stream and not (on and rolled):
        if state.rollout.off != "whole":
            raise BackendError(ErrorCode.STREAMING_OFF, "streaming is switched off here; ask for the whole answer")
        return Passed(whole=True, background=state.background)
    return Passed(background=state.background, rolled=stream and rolled and 0 < state.rollout.percent < 100)


def refuse_killed(state: ControlState, subject: Subject, now: float) -> None:
    """Raises BackendError when a kill or a pause is about this request."""
    for rule in state.killed:
        if not 0 < rule.until <= now and hits(rule, subject):
            code = ErrorCode.FORBIDDEN if rule.kind in _PERSONAL else ErrorCode.MAINTENANCE
            text = f"stopped by the operator: {_what(rule)}"
            raise BackendError(code, text, retry_after=None if code is ErrorCode.FORBIDDEN else _left(rule, now))
    for pause in state.paused:
        if not 0 < pause.until <= now and hits(pause, subject):
            raise BackendError(ErrorCode.MAINTENANCE, f"paused: {_what(pause)}", retry_after=_left(pause, now))


def paused_backends(state: ControlState, now: float) -> frozenset[str]:
    """Backends that take no new streams now, by a pause or a kill."""
    if not state.killed and not state.paused:
        return _NONE
    rules: tuple[Rule | Pause, ...] = (*state.killed, *state.paused)
    return frozenset(r.match for r in rules if r.kind == "backend" and not 0 < r.until <= now)


def _what(rule: Rule | Pause) -> str:
    return f"{rule.kind}{'' if rule.kind == 'all' else ' ' + rule.match}" + (f" ({rule.reason})" if rule.reason else "")


def _left(rule: Rule | Pause, now: float) -> float:
    return max(1.0, rule.until - now) if rule.until else _AGAIN
