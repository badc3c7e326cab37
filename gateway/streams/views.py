"""Which view of a stream a client gets, and what it may be told of it. Pure.

Law: Passthrough where client and backend speak the same dialect, Transcode otherwise; nothing else is asked.
"""

from __future__ import annotations

from backends.base import Driver
from gateway.protocols.base import About, ClientProtocol
from gateway.protocols.repairs import Mender, mender_of
from gateway.streams.passthrough import Passthrough, Renaming
from gateway.streams.stream import Identity
from gateway.streams.transcode import Transcode
from gateway.streams.view import View, split_of


def make_view(driver: Driver, protocol: ClientProtocol, about: About) -> View:
    """The view of a stream whose first word is this backend's."""

    def anew(other: Driver) -> View:
        """Nobody asks this one to `start`: that comes with its first block."""
        view = make_view(other, protocol, about)
        if isinstance(view, Transcode):
            view.owe()
        return view

    if driver.dialect != protocol.dialect:
        return Transcode(protocol, about, driver.decoder(), anew)
    kind = Renaming if about.renamed else Passthrough
    mender = make_mender(driver, about)
    return kind(protocol, about, not about.include_usage, split_of(driver), anew, mender, driver)


def make_mender(driver: Driver, about: About) -> Mender | None:
    """The repairs of one reading of a stream in its backend's own dialect; None: that dialect has none."""
    return mender_of(driver, about, split_of(driver))


def about_of(identity: Identity, *, include_usage: bool, dialect: str) -> About:
    """What encoders may say of a stream: its identity, its backend's dialect, and nothing that could change."""
    return About(
        stream_id=identity.id,
        model=identity.model,
        backend=identity.backend,
        created_ms=identity.started_ms,
        conversation_id=identity.conversation_id,
        include_usage=include_usage,
        dialect=dialect,
        renamed=identity.upstream_model not in ("", identity.model),
        echo=identity.echo,
    )
