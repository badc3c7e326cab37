"""The model's name in a backend's own frames, replaced by the one its client knows. Pure.

Law: of each frame only the first member that names a model changes, and only where it is the name the stream began
with; every other byte stays. Nothing is guessed: a stream whose first frames name no model is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from gateway.protocols.lines import to_json

# Within JSON text the quotes of such a member would be escaped. Azure's first chunk has an empty name.
_MEMBER = re.compile(rb'("model(?:Version)?"\s*:\s*)"(?:[^"\\]|\\.)+"')
FIRST = 8  # blocks that are looked at for the name
_NOWHERE = b"\n\n\n"  # is in no frame


def name_in(block: bytes) -> str:
    """The model that whole frames name first; "" for none."""
    found = _MEMBER.search(block)
    try:
        return "" if found is None else str(msgspec.json.decode(found[0][len(found[1]) :]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


class ModelName:
    """Of one view. `split`: a block to its frames; `theirs`, `ours`: the member as it comes and as it goes."""

    __slots__ = ("_model", "_split", "_tries", "ours", "theirs")

    def __init__(self, model: str, split: Callable[[bytes], list[bytes]]) -> None:
        self.theirs = self.ours = _NOWHERE
        self._model = model
        self._split = split
        self._tries = FIRST

    def put(self, block: bytes) -> bytes:
        """A block of whole frames with the client's name."""
        if self._tries:
            self._learn(block)
        times = block.count(self.theirs)
        if times < 2:
            return block.replace(self.theirs, self.ours) if times else block
        return b"".join([frame.replace(self.theirs, self.ours, 1) for frame in self._split(block)])

    def _learn(self, block: bytes) -> None:
        self._tries -= 1
        found = _MEMBER.search(block)
        if found is not None:
            self._tries = 0
            self.theirs, self.ours = found[0], found[1] + to_json(self._model)
