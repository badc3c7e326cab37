"""Figures, as a Prometheus parser reads them."""

from __future__ import annotations

import time

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from config.schema import Backend, Config, Route, Target
from gateway.observe.labels import Bounded
from gateway.observe.metrics import Metrics, NullMetrics
from gateway.observe.naming import Naming
from gateway.streams.settle import settle
from gateway.streams.stream import Identity, Receipt, State, Stream

WHO = Identity(
    id="st_a", owner="acme", protocol="native", model="fast", backend="demo", upstream_model="m", node="n", started_ms=1
)


def receipt(state: State = State.COMPLETED) -> Receipt:
    stream = Stream(WHO, 0.0)
    stream.progress(1, 0.5)
    stream.progress(2, 0.75)
    stream.end(state, 2.0, by="backend", reason="")
    return settle(stream, tap=None, bytes_in=10, now=2.0, ended_ms=2001, prompt_chars=8)


def read(metrics: NullMetrics) -> dict[tuple[str, str], float]:
    """(sample name, its labels as text) -> value."""
    body, _ = metrics.render()
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found


def test_a_stream_is_counted_once_it_ends() -> None:
    """Breaks when an ended stream is missing from the figures dashboards and alerts are built on."""
    metrics = Metrics()
    metrics.started(WHO)
    assert read(metrics)["headgate_streams_active", "backend=demo"] == 1
    metrics.finished(receipt())
    found = read(metrics)
    assert found["headgate_streams_total", "backend=demo,model=fast,protocol=native,state=completed"] == 1
    assert found["headgate_first_token_seconds_sum", "backend=demo,model=fast"] == 0.5
    assert found["headgate_inter_token_seconds_sum", "backend=demo,model=fast"] == 0.25
    assert found["headgate_stream_duration_seconds_sum", "backend=demo,model=fast"] == 2.0
    assert found["headgate_tokens_total", "backend=demo,kind=completion,model=fast"] == 2
    assert ("headgate_streams_active", "backend=demo") not in found


def test_the_active_gauge_cannot_go_wrong() -> None:
    """Breaks when a stream that ended twice, or on another backend than it began, leaves the gauge off by one."""
    metrics = Metrics()
    metrics.started(WHO)
    metrics.started(replace(WHO, id="st_b"))
    moved = replace(receipt(), backend="other")
    metrics.finished(moved)
    metrics.finished(moved)
    assert read(metrics)["headgate_streams_active", "backend=demo"] == 1


def test_failures_refusals_and_requests() -> None:
    """Breaks when an error of a backend, a refusal or an HTTP status is not counted where alerts look for it."""
    metrics = Metrics(registry_degraded=lambda: True, loop_lag=lambda: 0.25)
    metrics.finished(replace(receipt(State.UPSTREAM_ERROR), error_code="overloaded"))
    metrics.upstream_error("demo", "overloaded")
    metrics.refused("rate_limited")
    metrics.request("/v1/models", 200)
    found = read(metrics)
    assert found["headgate_upstream_errors_total", "backend=demo,code=overloaded"] == 2
    assert found["headgate_refused_total", "code=rate_limited"] == 1
    assert found["headgate_http_requests_total", "route=/v1/models,status=200"] == 1
    assert found["headgate_registry_degraded", ""] == 1
    assert found["headgate_event_loop_lag_seconds", ""] == 0.25


def test_clients_cannot_grow_the_figures() -> None:
    """Breaks when every model name a client invents becomes a time series of its own."""
    metrics = Metrics()
    for n in range(1000):
        metrics.finished(replace(receipt(), model=f"model-{n}"))
    models = {labels for name, labels in read(metrics) if name == "headgate_streams_total"}
    assert len(models) == 201
    assert any("model=other" in labels for labels in models)


def test_names_that_clients_make_up_fill_no_places() -> None:
    """Breaks when junk names take the labels, so that the models one pays for are counted as `other`."""
    routes = (
        Route(model="gpt-*", to=(Target("demo"),)),
        Route(model="fast", aliases=("swift",), to=(Target("demo", "m1"),)),
    )
    every = Route(model="*", to=(Target("demo"),))
    config = Config(backends={"demo": Backend(driver="demo", models=("m2",))}, routes=(*routes, every))
    naming = Naming(lambda: config, lambda: {"listed": "demo"})
    for n in range(1000):
        assert naming(f"junk-{n}", completed=True) == "other"
        assert naming(f"gpt-{n}", completed=False) == "other"
    for name in ("fast", "swift", "m1", "m2", "listed", "default"):
        assert naming(name, completed=False) == name
    assert naming("gpt-4o", completed=True) == "gpt-4o" == naming("gpt-4o", completed=False)
    assert sum(naming(f"gpt-{n}", completed=True) != "other" for n in range(1000)) == 199
    assert naming("fast", completed=False) == "fast"
    config = Config(routes=(Route(model="new", to=(Target("demo"),)),))
    assert naming("new", completed=False) == "new"
    metrics = Metrics()
    metrics.naming = naming
    metrics.finished(replace(receipt(), model="junk"))
    assert any("model=other" in labels for name, labels in read(metrics) if name == "headgate_streams_total")


def test_known_backends_have_a_figure_from_the_start() -> None:
    """Breaks when a backend nobody has used yet is missing from dashboards, so that its first streams show as a gap."""
    metrics = Metrics()
    metrics.breakers = lambda: {"demo": 0, "far": 2}  # type: ignore[assignment]
    assert read(metrics)["headgate_streams_active", "backend=far"] == 0
    metrics.started(WHO)
    found = read(metrics)
    assert (found["headgate_streams_active", "backend=demo"], found["headgate_streams_active", "backend=far"]) == (1, 0)


def test_labels_are_clean() -> None:
    """Breaks when a control character or an endless name gets into a label."""
    label = Bounded(limit=3)
    assert label("a\nb\x00c") == "abc"
    assert label("") == "unknown"
    assert label("x" * 500) == "x" * 100 == label("x" * 600)
    assert label("one too many") == "other"
    assert label("a\nb\x00c") == "abc"


def test_two_workers_in_a_process_do_not_mix() -> None:
    """Breaks when figures live in a global registry."""
    one, two = Metrics(), Metrics()
    one.refused("x")
    assert ("headgate_refused_total", "code=x") not in read(two)


def test_switched_off() -> None:
    """Breaks when the switch leaves figures, or the scrape is not valid without them."""
    metrics = NullMetrics()
    metrics.started(WHO)
    metrics.finished(receipt())
    metrics.refused("x")
    assert read(metrics) == {}


def test_the_price_of_a_stream() -> None:
    """Breaks when counting a stream costs more than the 1 ms per request that is promised (floor, generous)."""
    metrics, one = Metrics(), receipt()
    began = time.perf_counter()
    for _ in range(500):
        metrics.started(WHO)
        metrics.finished(one)
    assert (time.perf_counter() - began) / 500 < 0.001
