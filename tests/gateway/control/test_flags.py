"""The operators' settings as a value: changes, rules and their time, and what they mean for a request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from backends.contract.errors import BackendError, ErrorCode
from gateway.control.flags import ControlState, Invalid, Subject, current, hits, patched, pause_of, rule_of
from gateway.control.gate import Passed, check, paused_backends

ONE = Subject(("vllm-a",), ("fast", "llama-3"), "fast", "web", "acme", "u1")


def gate(state: ControlState, subject: Subject = ONE, **more: Any) -> Passed:
    return check(state, subject, **{"stream": True, "background": False, "high": False, "now": 100.0, **more})


def refusal(state: ControlState, **more: Any) -> ErrorCode:
    with pytest.raises(BackendError) as refused:
        gate(state, **more)
    return refused.value.code


def test_the_default_refuses_nothing() -> None:
    """A gateway nobody has touched must serve."""
    assert gate(ControlState()) == Passed()
    assert not paused_backends(ControlState(), 0.0)


def test_patches_are_merged() -> None:
    """Setting one field of the rollout must not set the others back."""
    state = patched(ControlState(), {"rollout": {"percent": 5, "salt": "x"}, "routes": {"fast": False, "slow": True}})
    state = patched(state, {"rollout": {"percent": 10}, "routes": {"fast": None}})
    assert (state.rollout.percent, state.rollout.salt, state.routes) == (10, "x", {"slow": True})
    assert patched(state, {"mode": "battery_saver"}).mode == "battery_saver"
    assert patched(patched(state, {"mode": "immediate"}), {"mode": None}).mode is None


@pytest.mark.parametrize(
    ("wish", "hit"),
    [
        ({"backend": "vllm-a"}, True),
        ({"backend": "vllm"}, False),
        ({"model": "fa*"}, True),
        ({"model": "llama-*"}, True),
        ({"model": "gpt-*"}, False),
        ({"route": "fast"}, True),
        ({"key": "web"}, True),
        ({"key": "w*"}, False),
        ({"owner": "acme"}, True),
        ({"user": "u2"}, False),
        ({"all": True}, True),
    ],
)
def test_what_a_rule_is_about(wish: dict[str, Any], hit: bool) -> None:
    """A rule for one backend that takes its neighbour along is an outage."""
    assert hits(rule_of(wish, "k", "me", 0.0), ONE) is hit


def test_rules_end_by_themselves() -> None:
    """A kill for ten minutes that is forgotten must not hold for ever."""
    rule = rule_of({"all": True, "for": "10m"}, "k", "me", 1000.0)
    state = ControlState(killed=(rule,), paused=(pause_of({"backend": "vllm-a", "for": 5}, "me", 1000.0),))
    assert refusal(state, now=1003.0) is ErrorCode.MAINTENANCE
    assert current(state, 1006.0) == replace(state, paused=())
    assert paused_backends(state, 1003.0) == {"vllm-a"}
    assert current(state, 1600.0) == ControlState()
    assert gate(state, now=1600.0) == Passed()


def test_somebody_who_was_stopped_is_not_told_to_come_back() -> None:
    """SDKs repeat a 503 by themselves: of a blocked user that would be a storm."""
    for wish, code in (({"user": "u1"}, ErrorCode.FORBIDDEN), ({"model": "fast"}, ErrorCode.MAINTENANCE)):
        assert refusal(ControlState(killed=(rule_of(wish, "k", "me", 0.0),))) is code


def test_emergency_and_background() -> None:
    """Who has high priority passes; the rest is told why not."""
    assert refusal(ControlState(emergency=True)) is ErrorCode.MAINTENANCE
    assert gate(ControlState(emergency=True), high=True) == Passed()
    assert refusal(ControlState(background=False), background=True) is ErrorCode.BACKGROUND_OFF
    assert gate(ControlState(background=False)) == Passed(background=False)


def test_whole_answers_are_never_switched_off() -> None:
    """`streaming: false` is what clients fall back from: to whole answers."""
    state = ControlState(streaming=False)
    assert refusal(state) is ErrorCode.STREAMING_OFF
    assert gate(state, stream=False) == Passed()
    assert gate(patched(state, {"rollout": {"off": "whole"}})).whole
    assert gate(patched(state, {"routes": {"fast": True}})) == Passed()


@pytest.mark.parametrize(
    "wish",
    [{}, {"all": False}, {"all": "yes"}, {"key": "a", "user": "b"}, {"model": "x" * 201}, {"model": "x", "why": ""}],
)
def test_wrong_wishes(wish: dict[str, Any]) -> None:
    """`all` by mistake is the worst mistake there is."""
    with pytest.raises(Invalid):
        rule_of(wish, "k", "me", 0.0)


def test_the_state_survives_json() -> None:
    """What one node writes the others must read."""
    state = patched(ControlState(version=3), {"mode": "immediate", "routes": {"a": False}, "rollout": {"percent": 1.5}})
    state = replace(state, killed=(rule_of({"user": "u"}, "k", "me", 1.5),))
    assert msgspec.json.decode(msgspec.json.encode(state), type=ControlState) == state
