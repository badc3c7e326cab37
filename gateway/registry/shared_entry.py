"""An entry of a shared transcript, as bytes. Pure.

Law: its first line is its id and the names of its words; whoever wants to know only where it stands reads no further.
"""

from __future__ import annotations

Words = tuple[str | bytes | int, ...]  # names of one letter, each before its value


def sealed(entry_id: str, words: Words) -> bytes:
    """An entry: a line of its id and the names of its words, all but the last with their lengths; then the words."""
    values = [value if isinstance(value, bytes) else str(value).encode() for value in words[1::2]]
    names = [f"{name!s}{len(value)}" for name, value in zip(words[:-2:2], values, strict=False)]
    return b"".join((" ".join((entry_id, *names, str(words[-2]))).encode(), b"\n", *values))


def opened(entry: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """An entry's id and words. Raises ValueError for one nobody can read."""
    head, line, values = entry.partition(b"\n")
    entry_id, *names = head.split(b" ")
    if not line or not names:
        raise ValueError("an entry that was cut off")
    words, at = {}, 0
    for name in names[:-1]:
        size = int(name[1:])
        words[name[:1]] = values[at : at + size]
        at += size
    words[names[-1]] = values[at:]
    return entry_id, words
