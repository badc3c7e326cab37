"""Routes and the traffic rules of backends in gateway.yaml: short forms, and what is complained of."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from backends import catalog
from config.json_schema import json_schema
from config.load import load_text
from config.schema import Config, Degrade, Hedge, Price, Route

BACKENDS = "backends: {a: {driver: demo}, b: {driver: demo}, o: {driver: ollama}}\n"


def config(routes: str) -> Config:
    text = f"{BACKENDS}routes: [{routes}]"
    loaded = load_text(text, "g.yaml", {})
    assert loaded.config is not None, loaded.complaints
    jsonschema.validate(yaml.safe_load(text), json_schema())
    return loaded.config


def route(text: str) -> Route:
    return config(text).routes[0]


def complaints(text: str) -> list[tuple[str, str]]:
    drivers = {name: catalog.load(name) for name in catalog.names()}
    return [(c.path, c.message) for c in load_text(text, "g.yaml", {}, drivers=drivers).complaints]


def test_several_names_of_one_route() -> None:
    """A second name would need a second copy of the route."""
    assert (route("{model: [x, y, 'z-*'], to: a}").model, route("{model: [x, y], to: a}").aliases) == ("x", ("y",))
    assert route("{model: x, aliases: [y], to: a}").aliases == ("y",)


def test_what_a_route_matches() -> None:
    """One glob would have to be written as a list, or a list be refused."""
    match = route("{model: x, to: a, match: {key: web, owner: [p, 'q*'], header: {X-Tier: gold}, min_prompt: 5}}").match
    assert (match.key, match.owner, match.header, match.min_prompt) == (("web",), ("p", "q*"), {"X-Tier": "gold"}, 5)


@pytest.mark.parametrize(
    ("text", "wanted"), [("800ms", Hedge(after=0.8)), ("p95", Hedge(percentile=95)), ("2", Hedge(after=2.0))]
)
def test_when_to_hedge(text: str, wanted: Hedge) -> None:
    """A duration would be taken for a percentile, or the other way round."""
    assert route(f"{{model: x, to: [a, b], hedge: {text}}}").hedge == wanted


@pytest.mark.parametrize("text", ["p0", "p100", "0s", "soon", "p9.5"])
def test_what_is_no_hedge(text: str) -> None:
    """A slip would mean that nobody is ever asked second, silently."""
    assert [path for path, _ in complaints(f"{BACKENDS}routes: [{{model: x, to: [a, b], hedge: {text}}}]")] == [
        "routes[0].hedge"
    ]


def test_prices() -> None:
    """Whole numbers are prices too."""
    found = config("{model: x, to: [{backend: a, price: {input: 0, output: 0.6}}, b]}")
    assert found.routes[0].to[0].price == Price(0.0, 0.6)


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("{model: x, to: a, force: {temprature: 1}}", "routes[0].force.temprature"),
        ("{model: x, to: a, defaults: {temperature: warm}}", "routes[0].defaults.temperature"),
        ("{model: x, to: a, defaults: {max_tokens: true}}", "routes[0].defaults.max_tokens"),
        ("{model: x, to: a, defaults: {stop: [1]}}", "routes[0].defaults.stop"),
        ("{model: x, to: [a, o], force: {user: me}}", "routes[0].force.user"),
        ("{model: x, to: a, hedge: 1s}", "routes[0].hedge"),
        ("{model: x, to: a, attempts: 11}", "routes[0].attempts"),
        ("{model: x, to: a, match: {min_prompt: 9, max_prompt: 8}}", "routes[0].match.max_prompt"),
        ("{model: [x, ''], to: a}", "routes[0].aliases"),
    ],
)
def test_what_is_wrong_with_a_route(route: str, path: str) -> None:
    """It would be found out in production, or never."""
    assert [at for at, _ in complaints(f"{BACKENDS}routes: [{route}]")] == [path]


def test_cheapest_needs_prices() -> None:
    """Whoever has no price would be the cheapest."""
    found = complaints(
        f"{BACKENDS}routes: [{{model: x, to: [a, {{backend: b, price: {{input: 1}}}}], policy: cheapest}}]"
    )
    assert [path for path, _ in found] == ["routes[0].to[0].price"]


@pytest.mark.parametrize(
    ("backend", "path"),
    [
        ("queue: {size: 3}", "queue"),
        ("queue: {size: -1}", "queue.size"),
        ("breaker: {failures: -1}", "breaker.failures"),
        ("breaker: {successes: 0}", "breaker.successes"),
        ("breaker: {pause: 10m}", "breaker.pause"),
        ("price: {input: -1}", "price.input"),
    ],
)
def test_what_is_wrong_with_a_backend(backend: str, path: str) -> None:
    """A queue nobody can be in, a breaker that never closes."""
    assert [at for at, _ in complaints(f"backends: {{a: {{driver: demo, {backend}}}}}")] == [f"backends.a.{path}"]


def test_what_is_given_instead_of_an_error() -> None:
    """A misread duration would give answers of another day, and an empty one would be a complaint."""
    said = route("{model: x, to: a, degrade: {cached: 1h, partial: true, message: 'Later.'}}").degrade
    assert (float(said.cached), said.partial, said.message) == (3600.0, True, "Later.")
    assert route("{model: x, to: a}").degrade == route("{model: x, to: a, degrade: }").degrade == Degrade()


@pytest.mark.parametrize(
    ("degrade", "path"),
    [("{cached: soon}", "cached"), ("{cached: 1h}", "cached"), ("{message: ' '}", "message"), ("{cache: 1h}", "cache")],
)
def test_what_is_wrong_with_degrade(degrade: str, path: str) -> None:
    """A route would be thought to have something to give, and have nothing."""
    text = f"streams: {{answers_memory: 0}}\n{BACKENDS}routes: [{{model: x, to: a, degrade: {degrade}}}]"
    assert [at for at, _ in complaints(text)] == [f"routes[0].degrade.{path}"]


def test_surviving_needs_a_registry_that_is_shared() -> None:
    """Streams that are to survive their node would die with it, and nobody had been told."""

    def noticed(text: str) -> list[str]:
        return [notice.path for notice in load_text(text, "g.yaml", {}).notices if "survive" in notice.path]

    routes = f"{BACKENDS}routes: [{{model: '*', to: a, survive: node}}]\n"
    assert noticed(routes) == ["routes[0].survive"]
    assert noticed(routes + "registry: {url: 'redis://h', share: 'off'}\n") == ["routes[0].survive"]
    assert noticed(routes + "registry: {url: 'redis://h'}\n") == []
    assert [path for path, _ in complaints(routes.replace("node", "all"))] == ["routes[0].survive"]
    assert route("{model: '*', to: a, survive: node}").survive == "node"
