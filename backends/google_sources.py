"""Where an answer of Google's comes from: groundingMetadata and citationMetadata as citations. Pure.

Google counts in bytes of UTF-8, we in characters: positions within the ASCII the text begins with are told, others are
left out. Law: one citation is told once, however often Google repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.contract.events import Citation


class Sources:
    """The citations of one answer."""

    def __init__(self) -> None:
        self._plain = 0  # characters before the first that is not ASCII
        self._plain_ended = False
        self._told: set[tuple[str, Any, Any]] = set()

    def said(self, text: str) -> None:
        """More of the answer's text."""
        if self._plain_ended:
            return
        plain = text if text.isascii() else text[: next(i for i, c in enumerate(text) if c > "\x7f")]
        self._plain += len(plain)
        self._plain_ended = plain is not text

    def read(self, candidate: dict[str, Any]) -> list[Citation]:
        """The citations a candidate tells that were not told before."""
        found = [*self._grounded(candidate.get("groundingMetadata")), *self._cited(candidate.get("citationMetadata"))]
        fresh = []
        for citation, start, end in found:
            key = (citation.url, start, end)
            if key not in self._told:
                self._told.add(key)
                fresh.append(citation)
        return fresh

    def _grounded(self, said: Any) -> Iterator[tuple[Citation, Any, Any]]:
        if not said:
            return
        chunks = said.get("groundingChunks") or []
        for support in said.get("groundingSupports") or ():
            segment = support.get("segment") or {}
            for index in support.get("groundingChunkIndices") or ():
                if 0 <= index < len(chunks):
                    yield self._citation(_page(chunks[index]), segment, chunks[index])

    def _cited(self, said: Any) -> Iterator[tuple[Citation, Any, Any]]:
        for source in (said or {}).get("citationSources") or (said or {}).get("citations") or ():
            yield self._citation(source, source, source)

    def _citation(self, page: dict[str, Any], place: dict[str, Any], source: Any) -> tuple[Citation, Any, Any]:
        end = place.get("endIndex")
        start = place.get("startIndex", 0)  # a zero is left out on the wire
        known = type(end) is int and type(start) is int and end <= self._plain
        citation = Citation(
            url=str(page.get("uri") or ""),
            title=str(page.get("title") or ""),
            text=str(place.get("text") or ""),
            start=start if known else None,
            end=end if known else None,
            source=source,
            dialect="google",
        )
        return citation, start, end


def _page(chunk: dict[str, Any]) -> dict[str, Any]:
    return chunk.get("web") or chunk.get("retrievedContext") or chunk.get("maps") or {}
