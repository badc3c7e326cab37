"""`headgate chat`: talk to a model through the gateway. Ctrl-C cancels the answer at its source, by its id; a line that
breaks is taken up again where it broke, and `--resume ID` reads an answer that was left.

The official openai client is used as any user's would be: it knows nothing of Headgate but the address.
"""

from __future__ import annotations

import secrets
import signal
import time
from base64 import b32encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from gateway.cli.following import follow
from gateway.cli.http import Remote, Unreachable, key_option, remote, url_option
from gateway.cli.streams import cancel_by_id

if TYPE_CHECKING:
    from openai import OpenAI

_ASIDE = {"X-Stream-On-Disconnect": "grace=60s"}  # while the line is broken, the answer goes on


class Turn(Struct, frozen=True):
    """One answer as it was seen: its text, how many pieces it came in, and in how many seconds."""

    text: str
    pieces: int
    first: float
    total: float

    def rate(self) -> str:
        """What the terminal says of it."""
        streaming = self.total - self.first
        speed = f", {(self.pieces - 1) / streaming:.0f} per second" if self.pieces > 1 and streaming > 0 else ""
        return f"{self.pieces} tokens, first after {self.first * 1000:.0f} ms{speed}"


@click.command()
@click.argument("message", required=False)
@click.option("--model", "-m", default="demo", show_default=True, help="The model, as the gateway's routes know it.")
@click.option("--system", default="", help="A system prompt.")
@click.option("--resume", "stream_id", default="", metavar="ID", help="Read this answer, from its beginning, and end.")
@url_option
@key_option
def chat(message: str | None, model: str, system: str, stream_id: str, url: str, key: str) -> None:
    """Send MESSAGE and print the answer as it comes; without one, talk in turns (Ctrl-D ends)."""
    gateway = remote(url, key)
    if stream_id and message is not None:
        raise click.UsageError("--resume reads an answer; it takes no MESSAGE")
    if stream_id:
        raise SystemExit(0 if _resumed(gateway, stream_id) else 1)
    import openai

    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=key or "none", max_retries=0)
    talk: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    try:
        if message is not None:
            raise SystemExit(0 if _turn(client, gateway, model, talk, message) else 1)
        while True:
            _turn(client, gateway, model, talk, click.prompt("you", prompt_suffix="> "))
    except (EOFError, click.Abort):
        click.echo()


def _resumed(gateway: Remote, stream_id: str) -> bool:
    """Print an answer that was left, to its end. False: it failed."""
    pieces = 0
    for frame in follow(gateway, stream_id):
        pieces += bool(frame.text)
        click.echo(frame.text, nl=False)
        if frame.failure:
            click.echo("\n" + frame.failure, err=True)
            return False
    click.echo(f"\n[{pieces} tokens; {stream_id}]", err=True)
    return True


def _turn(client: OpenAI, gateway: Remote, model: str, talk: list[dict[str, str]], message: str) -> bool:
    """Ask, print, and remember the answer. False: it failed or was cancelled."""
    import openai

    stream_id = new_stream_id()
    asked = [*talk, {"role": "user", "content": message}]
    told: list[str] = []

    def interrupted(_number: int, _frame: object) -> None:
        # cancelled from here while the answer is still being read: unwinding first would only hang up on it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        told.append(_cancelled(gateway, stream_id))

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        turn = _stream(client, gateway, model, asked, stream_id)
    except (openai.OpenAIError, Unreachable, OSError, KeyboardInterrupt) as problem:
        click.echo("\n" + (told[0] if told else str(problem) or "interrupted"), err=True)
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    if told:
        click.echo("\n" + told[0], err=True)
        return False
    talk[:] = [*asked, {"role": "assistant", "content": turn.text}]
    click.echo(f"\n[{turn.rate()}; {stream_id}]", err=True)
    return True


def _stream(client: OpenAI, gateway: Remote, model: str, messages: list[dict[str, str]], stream_id: str) -> Turn:
    started = time.monotonic()
    first = 0.0
    pieces: list[str] = []
    for text in filter(None, _pieces(client, gateway, model, messages, stream_id)):
        first = first or time.monotonic() - started
        pieces.append(text)
        click.echo(text, nl=False)
    return Turn("".join(pieces), len(pieces), first, time.monotonic() - started)


def _pieces(
    client: OpenAI, gateway: Remote, model: str, messages: list[dict[str, str]], stream_id: str
) -> Iterator[str]:
    """The answer, by the official client; where its line breaks, the rest by the frame it broke at."""
    import httpx
    import openai

    create: Any = client.chat.completions.create  # its typed messages are a union of five dictionaries
    frames = 0
    try:
        headers = {"X-Stream-Id": stream_id, **_ASIDE}
        for chunk in create(model=model, messages=messages, stream=True, extra_headers=headers):
            frames += 1
            yield (chunk.choices[0].delta.content if chunk.choices else None) or ""
        return
    except (httpx.TransportError, openai.APIConnectionError):
        if not frames:
            raise
    click.echo("[the line broke; reading on]", err=True)
    for frame in follow(gateway, stream_id, after=frames, protocol="origin"):
        if frame.failure:
            raise Unreachable(frame.failure)
        yield frame.text


def _cancelled(gateway: Remote, stream_id: str) -> str:
    try:
        return cancel_by_id(gateway, stream_id)
    except Unreachable as problem:
        return f"not confirmed: {problem.message}"


def new_stream_id() -> str:
    """A stream id of the client's choice: `st_` and 32 base32 characters, milliseconds first."""
    number = int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(14)
    return "st_" + b32encode(number).decode("ascii").lower()
