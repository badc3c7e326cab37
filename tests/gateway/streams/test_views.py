"""Which view a client gets."""

from __future__ import annotations

from backends import openai
from config.schema import Backend
from gateway.protocols import native, openai_chat
from gateway.protocols.base import About
from gateway.streams.passthrough import Passthrough, Renaming
from gateway.streams.transcode import Transcode
from gateway.streams.views import make_view

ABOUT = About("st_a", "m", "b", 0)


def test_the_view_follows_from_the_dialects() -> None:
    """Decoding what could pass untouched costs fields nobody knows yet."""
    driver = openai.Driver("x", Backend(driver="openai", url="http://x/v1"))
    assert isinstance(make_view(driver, openai_chat.Protocol(), ABOUT), Passthrough)
    assert isinstance(make_view(driver, native.Protocol(), ABOUT), Transcode)
    renamed = About("st_a", "m", "b", 0, renamed=True)
    assert isinstance(make_view(driver, openai_chat.Protocol(), renamed), Renaming)
