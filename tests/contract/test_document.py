"""docs/compatibility.md is what its generator writes, to the letter."""

from __future__ import annotations

from support.compatibility import FILE, committed, render


def test_nothing_in_the_document_is_written_by_hand() -> None:
    """Its words, or the table of what is dropped and refused, would say something else than the code does."""
    assert FILE.read_text(encoding="utf-8") == render(committed())
