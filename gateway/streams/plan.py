"""All that is decided before a stream starts. Declarations.

Law: nothing of it changes while the stream runs.
"""

from __future__ import annotations

from msgspec import Struct

from backends.base import Driver, HttpRequest
from config.schema import OnDisconnect, Streams
from gateway.streams.course import Course


class Plan(Struct, frozen=True):
    """Without a `course`, `driver` is asked `request` and nobody else."""

    driver: Driver
    request: HttpRequest
    limits: Streams
    on_disconnect: OnDisconnect
    prompt_chars: int
    dropped: tuple[str, ...] = ()  # what the client asked for and the backend cannot express
    include_usage: bool = True  # as in About
    course: Course | None = None
    partial: bool = False  # an answer that runs out of time is given as far as it came
    remembered: str = ""  # the name under which the finished answer is kept (`answers`); empty: it is not
    turns: bytes = b""  # what the client may refer to later by this answer's id, as in `Asked`
    will: bytes = b""  # what another node needs to go on with it (`legacy`); empty: none does
