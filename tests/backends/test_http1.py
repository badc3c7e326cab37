"""Body framing and response heads, without a socket."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.http1 import BadResponse, ChunkedBody, CloseBody, LengthBody, body_of, parse_head

BODY = b"5;x=1\r\nhello\r\n1\r\n\r\r\nA\r\n0\r\n\r\n12345\r\n0\r\nTrailer: x\r\n\r\n"
CONTENT = b"hello\r0\r\n\r\n12345"


def _feed(body: ChunkedBody, *reads: bytes) -> bytes:
    return b"".join(body.feed(read) for read in reads)


@pytest.mark.parametrize("at", range(len(BODY) + 1))
def test_split_anywhere(at: int) -> None:
    """A read boundary at any offset would lose, double or invent content (content that looks like framing included)."""
    body = ChunkedBody()
    assert _feed(body, BODY[:at], BODY[at:]) == CONTENT
    assert body.done
    assert not body.extra


def test_one_byte_reads() -> None:
    """A backend that trickles would break the walker's state."""
    body = ChunkedBody()
    assert _feed(body, *(BODY[i : i + 1] for i in range(len(BODY)))) == CONTENT
    assert body.done


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=12), st.lists(st.integers(0, 4000), max_size=10))
def test_any_chunks_any_cuts(chunks: list[bytes], cuts: list[int]) -> None:
    """Some combination of chunk sizes and reads would change the content."""
    raw = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    edges = [0, *sorted(min(c, len(raw)) for c in cuts), len(raw)]
    body = ChunkedBody()
    reads = [raw[a:b] for a, b in pairwise(edges) if a < b]
    assert _feed(body, *reads) == b"".join(chunks)
    assert body.done


def test_several_chunks_are_one_piece() -> None:
    """A read of several chunks would reach the sink in pieces, and cost a call for each."""
    assert ChunkedBody().feed(b"1\r\na\r\n2\r\nbc\r\n") == b"abc"


def test_extra_bytes_are_noticed() -> None:
    """Bytes after the last chunk would be taken for the next answer."""
    body = ChunkedBody()
    body.feed(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200")
    assert body.done
    assert body.extra


@pytest.mark.parametrize(
    "raw",
    [b"x\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\na\r\n", b"1_0\r\n", b"1\na\n", b"1\r\nab\r\n", b"\r\n", b"1" * 16,
     b"1;" + b"a" * 5000, b"0\r\n" + b"a" * 20_000, b"0\r\na\n\r\n"],
)  # fmt: skip
def test_bad_chunking(raw: bytes) -> None:
    """A size two parsers read differently would let a backend smuggle an answer into the next stream."""
    with pytest.raises(BadResponse):
        _feed(ChunkedBody(), raw[:3], raw[3:])


def test_length_body() -> None:
    """A Content-Length body would end early, late, or hide what follows it."""
    body = LengthBody(5)
    assert body.feed(b"abc") == b"abc"
    assert not body.close()
    assert body.feed(b"defg") == b"de"
    assert body.done
    assert body.extra


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_bad_heads(raw: bytes) -> None:
    """A doubtful head would be read one way here and another way elsewhere."""
    with pytest.raises(BadResponse):
        parse_head(raw)


def test_head_and_framing() -> None:
    """The wrong framing would be chosen, or a header lost."""
    head = parse_head(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: s=1\r\nTransfer-Encoding: Chunked\r\n\r\n")
    assert head.headers == {"x-a": "1, 2", "transfer-encoding": "Chunked"}
    assert head.reusable
    assert isinstance(body_of(head, "POST"), ChunkedBody)
    assert body_of(head, "HEAD").done
    old = parse_head(b"HTTP/1.0 200 OK\r\n\r\n")
    assert isinstance(body_of(old, "POST"), CloseBody)
    assert not old.reusable
    assert body_of(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n"), "POST").done
