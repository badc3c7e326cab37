"""The fold of receipts: additive, bounded, and near the truth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.registry_nodes import entry, receipt

from gateway.registry.statistics import MAX_MODELS, OTHER, Fold, bucket, bucket_value, fields, merge, snapshot


@given(st.floats(1.01, 2e7))
def test_a_bucket_is_near_its_times(milliseconds: float) -> None:
    """Percentiles come from buckets: one further off than 5 % would mislead an alert."""
    assert abs(bucket_value(bucket(milliseconds)) / milliseconds - 1) < 0.05


@given(st.lists(st.floats(0, 2e7), min_size=1, max_size=50))
def test_percentiles_lie_within_the_times(times: list[float]) -> None:
    """A p99 above the slowest stream, or a p50 below the fastest, is a time that never was."""
    counts = merge(fields(receipt(entry("s"), duration_ms=one)) for one in times)
    found = snapshot(counts, active=0, peak=0)["durationMs"]
    assert all(min(times) - 0.051 <= found[p] <= max(times) + 0.051 for p in ("p50", "p95", "p99"))
    assert found["p50"] <= found["p95"] <= found["p99"]


def test_figures_of_an_earlier_release_still_read() -> None:
    """While a fleet is updated, some nodes' histograms hold no sums: their percentiles would be far too small."""
    both = merge([{"duration|81": 9}, fields(receipt(entry("s")))])
    assert abs(snapshot(both, active=0, peak=0)["durationMs"]["p50"] - 1100) < 55


ENDINGS = st.sampled_from(["completed", "cancelled", "timed_out", "node_lost", "shed"])


@given(st.lists(ENDINGS, max_size=30), st.integers(0, 30))
def test_merging_parts_is_counting_all(states: list[str], cut: int) -> None:
    """Nodes are summed field by field: any split of the receipts must give the same sum."""
    receipts = [receipt(entry(f"s{i}"), state) for i, state in enumerate(states)]
    left, right = Fold(), Fold()
    for one in receipts[:cut]:
        left.add(one)
    for one in receipts[cut:]:
        right.add(one)
    assert merge([left.counts(None), right.counts(None)]) == merge(fields(one) for one in receipts)


def test_snapshot_has_the_contract_shape() -> None:
    """The answer of /api/streaming/statistics is a promise: states, rates, percentiles, tokens, groups."""
    fold = Fold()
    for i, state in enumerate(["completed", "completed", "upstream_error", "timed_out", "client_gone"]):
        fold.add(receipt(entry(f"s{i}"), state))
    found = snapshot(fold.counts("acme"), active=1, peak=3, backends={"demo": 1})
    rates = [found[name] for name in ("completionRate", "errorRate", "timeoutRate", "cancelRate")]
    assert rates == [0.4, 0.2, 0.2, 0.2]
    assert abs(found["firstTokenMs"]["p50"] - 100) < 5
    assert abs(found["durationMs"]["p99"] - 1100) < 55
    assert (found["tokens"], found["tokensPerSecond"], found["active"], found["peakActive"]) == (35, 7.0, 1, 3)
    assert found["byBackend"]["demo"] == {"count": 5, "tokens": 35, "failed": 1, "active": 1, "errorRate": 0.2}
    assert found["byModel"]["m"]["count"] == 5


def test_empty_snapshot() -> None:
    """Before the first stream there is nothing to divide by."""
    found = snapshot({}, active=0, peak=0)
    assert found["completionRate"] == 0
    assert found["firstTokenMs"]["p95"] is None
    assert found["tokensPerSecond"] is None


def test_labels_are_bounded() -> None:
    """Clients choose model names: unbounded labels would let them fill memory."""
    fold = Fold(max_owners=3)
    for i in range(MAX_MODELS + 50):
        fold.add(receipt(entry(f"s{i}", model=f"m{i}")))
    counted = snapshot(fold.counts("acme"), active=0, peak=0)["byModel"]
    assert len(counted) == MAX_MODELS + 1
    assert counted[OTHER]["count"] == 50
    for i in range(5):
        fold.add(receipt(entry("x", owner=f"o{i}")))
    assert fold.counts("acme") == {}
    assert fold.counts("o4")["state|completed"] == 1
