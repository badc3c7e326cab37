"""The short road of blocks that have become safe: to the one client that reads, as it came, in one write.

Law: what it shows is what `Reader.flush` would show. Whoever reads otherwise (several readers, one that is behind, what
stands for readers on other nodes) has the ordinary road.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.streams.reader import Reader
from gateway.streams.veil import Blocks, Veil


def released(veil: Veil, new: Blocks, readers: Sequence[Reader]) -> bool:
    """Show these blocks. False: nothing was done."""
    if len(readers) != 1 or not isinstance(readers[0], Reader) or not readers[0].live or not veil.follows(new):
        return False
    reader = readers[0]
    try:
        data = new.seen_by(reader.view)
    except Exception as error:
        reader.break_off(error)
        return True
    pacer = reader.pacer
    if not data:
        return True
    if pacer.free(reader.stamp):
        reader.stamp = pacer.turn
        pacer.wrote()
        reader.output.write(data)
        if reader.output.blocked:
            reader.rest()
    else:
        reader.later(data)
    return True
