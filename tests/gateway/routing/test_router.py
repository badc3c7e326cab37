"""Routing: the first glob that fits, the weights as written, and errors that help."""

from __future__ import annotations

import pytest

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend, Config, Route, Target
from gateway.routing.router import Router

BACKENDS = {name: Backend(driver="demo") for name in ("openai", "local", "demo")}


def router(*routes: Route, busy: dict[str, int] | None = None, die: float = 0.0) -> Router:
    config = Config(backends=BACKENDS, routes=routes)
    return Router(config, lambda name: (busy or {}).get(name, 0), lambda: die)


GPT = Route(model="gpt-*", to=(Target("openai"),))
FAST = Route(model="fast", to=(Target("local", "llama", 3), Target("openai", "mini", 1)))
REST = Route(model="*", to=(Target("demo"),))


def test_the_first_matching_route_decides() -> None:
    """A catch-all would swallow everything, or a route below it would be reached."""
    found = router(GPT, FAST, REST).choose("gpt-4o")
    assert (found.backend, found.model) == ("openai", "gpt-4o")
    assert router(REST, GPT).choose("gpt-4o").backend == "demo"


@pytest.mark.parametrize(
    ("die", "backend", "model"), [(0.0, "local", "llama"), (0.74, "local", "llama"), (0.76, "openai", "mini")]
)
def test_weights_split_as_written(die: float, backend: str, model: str) -> None:
    """Three quarters of the traffic would not go where three quarters of the weight is."""
    found = router(FAST, die=die).choose("fast")
    assert (found.backend, found.model) == (backend, model)


def test_least_busy_counts_running_streams_per_weight() -> None:
    """A loaded backend would get the next stream too."""
    route = Route(model="fast", to=FAST.to, policy="least_busy")
    assert router(route, busy={"local": 4, "openai": 1}).choose("fast").backend == "openai"
    assert router(route, busy={"local": 2, "openai": 1}).choose("fast").backend == "local"


def test_round_robin_takes_turns() -> None:
    """One of two equal backends would idle."""
    route = Route(model="fast", to=FAST.to, policy="round_robin")
    one = router(route)
    assert [one.choose("fast").backend for _ in range(4)] == ["local", "openai"] * 2


def test_unknown_models_and_backends_are_refused_with_a_hint() -> None:
    """The user would have to guess what the right name is."""
    with pytest.raises(BackendError) as caught:
        router(FAST).choose("fsat")
    assert caught.value.code is ErrorCode.UNKNOWN_MODEL
    assert "'fast'" in caught.value.message
    with pytest.raises(BackendError) as caught:
        router(REST).choose("m", "opnai")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "'openai'" in caught.value.message


def test_a_request_without_a_model_takes_the_first_named_route() -> None:
    """Native clients may leave the model out."""
    assert router(GPT, FAST).choose("").model == "llama"
    assert router(REST).choose("").model == "default"


def test_a_lone_backend_needs_no_routes() -> None:
    """Three lines of YAML would not be enough."""
    config = Config(backends={"only": Backend(driver="demo")})
    assert Router(config, lambda _name: 0).choose("anything").backend == "only"
