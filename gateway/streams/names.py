"""What a stream is called inside: its id and its owner together, because a client-chosen id is unique per owner only.

Law: pure. Outside (headers, SSE ids, JSON) a stream is shown by its id alone; maps, Redis keys and messages between
nodes use the key. An id never holds `@` (ID_PATTERN), so no two pairs share a key.
"""

from __future__ import annotations


def stream_key(stream_id: str, owner: str) -> str:
    """The key of an owner's stream: `id@owner`."""
    return f"{stream_id}@{owner}"


def split_key(key: str) -> tuple[str, str]:
    """(stream id, owner) of a key."""
    stream_id, _, owner = key.partition("@")
    return stream_id, owner
