"""The cap on an answer's tool-call arguments."""

from __future__ import annotations

from backends import catalog
from backends.contract.errors import ErrorCode
from backends.contract.events import Event, OtherChoice, ToolCallDelta
from config.schema import Backend
from gateway.protocols import openai_chat
from gateway.protocols.base import About
from gateway.streams.arguments import CappedTap

DRIVER = catalog.build("b", Backend(driver="openai", url="http://h:1"))


def test_arguments_of_every_choice_count() -> None:
    """A backend could fill the memory of all that read it by way of another choice than the first."""
    tap = CappedTap(DRIVER.tap(), DRIVER, 10)
    encoder = openai_chat.Protocol().encoder(About("st_a", "m", "b", 0))
    first: list[Event] = [ToolCallDelta(0, "c", "f", "12345"), OtherChoice(1, ToolCallDelta(0, "c", "f", "12345"))]
    tap.feed(encoder.feed(first))
    assert tap.failure is None
    tap.feed(encoder.feed([OtherChoice(1, ToolCallDelta(0, arguments="6"))]))
    assert tap.failure is not None
    assert (tap.failure.code, tap.tokens) == (ErrorCode.EVENT_TOO_LARGE, 3)
