"""Readers of other nodes, as one reader of this one's producer. Law: they read the shared copy, never this worker."""

from __future__ import annotations

from gateway.protocols.base import Ending


class Elsewhere:
    """The readers of other nodes, as their stream's producer sees them: one that never falls behind."""

    cursor = 0
    sent = 0
    live = True
    wired = None  # no socket here leads to them

    def push(self) -> None:
        """They read the shared copy."""

    def take(self, block: bytes, text: str) -> None:
        """Likewise."""

    def rest(self) -> None:
        """Likewise."""

    def end(self, ending: Ending, completed: bool) -> None:
        """Likewise."""

    def cut(self) -> None:
        """Likewise."""

    def abandon(self) -> None:
        """Likewise."""
