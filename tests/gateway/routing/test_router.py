"""Routing: the first glob that fits, the weights as written, and errors that help."""

from __future__ import annotations

import time

import pytest

from backends.contract.errors import BackendError, ErrorCode
from config.schema import Backend, Config, Key, Match, Route, Target
from gateway.routing.matching import Asking
from gateway.routing.policies import Seen
from gateway.routing.router import Router

BACKENDS = {name: Backend(driver="demo") for name in ("openai", "local", "demo")}


def router(*routes: Route, busy: dict[str, int] | None = None, die: float = 0.0) -> Router:
    config = Config(backends=BACKENDS, routes=routes)
    return Router(config, lambda: {name: Seen(count) for name, count in (busy or {}).items()}, lambda: die)


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
    assert Router(config, dict).choose("anything").backend == "only"


GOLD = Match(
    key=("web*",), owner=("acme",), user=("u1", "u2"), workspace=("w",), header={"X-Tier": "gold"}, max_prompt=10
)
RIGHT = {
    "key": "web-1",
    "owner": "acme",
    "user": "u2",
    "workspace": "w",
    "headers": {"x-tier": "gold"},
    "chars": 40,
}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, ""),
        ({"key": "app"}, "key is 'app', not web*"),
        ({"owner": ""}, "owner is '', not acme"),
        ({"user": "u3"}, "user is 'u3', not u1, u2"),
        ({"workspace": "x"}, "workspace is 'x', not w"),
        ({"headers": {}}, "header X-Tier is missing, not gold"),
        ({"headers": {"x-tier": "tin"}}, "header X-Tier is 'tin', not gold"),
        ({"chars": 41}, "the prompt has about 11 tokens, more than 10"),
    ],
)
def test_a_route_may_ask_for_more_than_a_model(wrong: dict[str, object], why: str) -> None:
    """Somebody would be served by a route that is not theirs, or an operator would not learn why they are not."""
    one = router(Route(model="*", to=(Target("local"),), match=GOLD), REST)
    asking = Asking(model="m", **{**RIGHT, **wrong})  # type: ignore[arg-type]
    assert one.decide(asking).candidates[0].backend == ("demo" if why else "local")
    told = list(one.explain(asking))
    assert told[0]["why"] == (why or "fits")
    assert told[-1]["taken"]


def test_small_prompts_are_told_from_big_ones() -> None:
    """Long documents would go to the model with the short context."""
    small = Route(model="*", to=(Target("local"),), match=Match(max_prompt=100))
    both = router(small, Route(model="*", to=(Target("openai"),), match=Match(min_prompt=101)))
    assert both.decide(Asking(model="m", chars=400)).candidates[0].backend == "local"
    assert both.decide(Asking(model="m", chars=401)).candidates[0].backend == "openai"


def test_aliases_are_names_too() -> None:
    """A renamed model would be unknown under its old name, or missing from the list."""
    route = Route(model="new", to=(Target("local", "llama"),), aliases=("old", "older-*"))
    one = router(route)
    assert [one.choose(name).model for name in ("new", "old", "older-2")] == ["llama"] * 3
    assert one.models() == ["new", "old"]


def test_explaining_uses_no_turn_up() -> None:
    """Looking would change where the next stream goes."""
    one = router(Route(model="fast", to=FAST.to, policy="round_robin"))
    for _ in range(3):
        assert list(one.explain(Asking(model="fast")))[-1]["candidates"][0]["backend"] == "local"
    assert one.choose("fast").backend == "local"


def test_explaining_knows_whose_key_it_is() -> None:
    """An operator who names a key would be shown another route than its streams take."""
    routes = (Route(model="*", to=(Target("local"),), match=Match(owner=("acme",))), REST)
    one = Router(Config(backends=BACKENDS, routes=routes, keys=(Key("web", "acme", "sha256:0"),)), dict)
    assert list(one.explain(Asking(model="m", key="web")))[-1]["route"] == 0
    assert list(one.explain(Asking(model="m", key="web", owner="other")))[-1]["route"] == 1


@pytest.mark.parametrize("wildcard", [True, False])
@pytest.mark.parametrize("field", ["model", "backend"])
def test_a_name_beyond_all_names_is_refused_at_once(field: str, wildcard: bool) -> None:
    """Names of many MB would stay in statistics and records, or hold up everybody while a near one is looked for."""
    one = router(REST if wildcard else FAST)
    asking = Asking(**{"model": "fast", field: "m" * 2_000_000})
    began = time.process_time()
    with pytest.raises(BackendError) as refused:
        one.decide(asking)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.param == field
    assert len(refused.value.message) < 200
    assert time.process_time() - began < 0.2
    assert router(REST).choose("m" * 300).model == "m" * 300


def test_names_that_clients_make_up_are_not_kept_for_ever() -> None:
    """What is remembered of model names would grow with every request."""
    asked = router(GPT, FAST, REST)
    for number in range(2000):
        assert asked.choose(f"made-up-{number}").backend == "demo"
    assert len(asked._fitting) <= 512


def test_a_name_that_is_known_is_still_matched_by_who_asks() -> None:
    """The second request for a model would get the route of the first, whoever sends it."""
    mine = Route(model="*", to=(Target("local"),), match=Match(owner=("acme",)))
    asked = router(mine, REST)
    for owner, backend in (("acme", "local"), ("bolt", "demo"), ("acme", "local")):
        assert asked.decide(Asking(model="m", owner=owner)).candidates[0].backend == backend


def test_the_least_busy_is_found_anew_each_time() -> None:
    """All streams would go where the first one went."""
    busy = {"local": 3, "openai": 1}
    route = Route(model="*", to=(Target("local"), Target("openai")), policy="least_busy")
    asked = Router(Config(backends=BACKENDS, routes=(route,)), lambda: {name: Seen(n) for name, n in busy.items()})
    assert asked.choose("m").backend == "openai"
    busy["openai"] = 9
    assert asked.choose("m").backend == "local"
