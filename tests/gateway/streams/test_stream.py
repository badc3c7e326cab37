"""The state table: exactly one ending, whoever comes first."""

from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.stream import NEXT, Identity, State, Stream, new_stream_id


def make(now: float = 0.0) -> Stream:
    identity = Identity(
        id="st_x", owner="o", protocol="native", model="m", backend="b", upstream_model="m", node="n", started_ms=1
    )
    return Stream(identity, now)


def test_stream_ids_have_the_fixed_shape_and_sort_by_time() -> None:
    """Clients store ids and cut them from logs; another alphabet or length would break both."""
    early, late = new_stream_id(1_000), new_stream_id(2_000)
    assert re.fullmatch(r"st_[a-z2-7]{32}", early)
    assert early < late
    assert new_stream_id(1_000) != early


@given(st.lists(st.sampled_from([s for s in State if s.terminal]), min_size=2, max_size=5))
def test_only_the_first_ending_counts(endings: list[State]) -> None:
    """A cancel, a timeout and the end in the same tick must not account for a stream twice."""
    stream = make()
    won = [stream.end(state, 1.0, by="x", reason=str(i)) for i, state in enumerate(endings)]
    assert won == [True] + [False] * (len(endings) - 1)
    assert stream.state is endings[0]
    assert stream.reason == "0"


def test_nothing_leaves_a_terminal_state() -> None:
    """A terminal state with a way out would let an ended stream come back."""
    assert all(NEXT[state] == frozenset() for state in State if state.terminal)
    assert set(NEXT) == set(State)


def test_the_first_token_starts_the_stream_and_gaps_are_kept() -> None:
    """Receipts would show wrong first-token times and gaps."""
    stream = make(now=10.0)
    stream.progress(1, 10.5)
    stream.progress(2, 10.6)
    stream.progress(3, 11.6)
    assert stream.state is State.STREAMING
    assert stream.first_token == 10.5
    assert abs(stream.max_gap - 1.0) < 1e-9
    assert stream.entry().first_token_ms == 500.0
    assert stream.entry().token_count == 3


def test_a_forked_worker_makes_ids_of_its_own() -> None:
    """Workers are forked: each would go on with the random bytes of their parent, and two streams have one id."""
    new_stream_id(1)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, new_stream_id(1).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != new_stream_id(1)
    os.close(reader)
    os.close(writer)


def test_ids_are_not_made_of_the_same_bytes() -> None:
    """Ids of one batch of random bytes would share some of them."""
    made = [new_stream_id(5)[13:] for _ in range(1000)]
    assert len({part[k : k + 8] for part in made for k in (0, 8)}) > 1900
