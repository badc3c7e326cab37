"""`headgate streams`: list, watch and cancel running streams of a gateway; follow one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from gateway.cli.following import follow
from gateway.cli.http import Remote, Unreachable, error_text, key_option, remote, url_option

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("stream", "state", "model", "backend", "protocol", "owner", "node", "age", "first token", "tokens")


@click.group()
def streams() -> None:
    """List, watch and cancel running streams."""


@streams.command("ls")
@url_option
@key_option
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer as it is.")
def list_streams(url: str, key: str, as_json: bool) -> None:
    """List the running streams of your key."""
    answer = remote(url, key).need("GET", "/api/streaming/active")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    for entry in answer["streams"]:
        click.echo("  ".join(_row(entry, time.time())))
    click.echo(f"{answer['count']} running", err=True)


@streams.command()
@click.argument("stream_id", metavar="ID", required=False)
@url_option
@key_option
@click.option("--json", "as_json", is_flag=True, help="With ID: each event as one line of JSON.")
@click.option("--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(min=0), default=0, help="Stop after so many looks; 0: never.")
def watch(stream_id: str | None, url: str, key: str, as_json: bool, every: float, count: int) -> None:
    """Watch the running streams, or follow the events of the stream ID to its end; Ctrl-C ends it.

    Watching is reading: the stream is not stopped by it, nor when you leave.
    """
    gateway = remote(url, key)
    try:
        if stream_id is not None:
            raise SystemExit(0 if _follow(gateway, stream_id, as_json) else 1)
        _watch_all(gateway, every, count)
    except KeyboardInterrupt:
        return


def _follow(gateway: Remote, stream_id: str, as_json: bool) -> bool:
    """Print every event. False: the stream failed."""
    failed = False
    for frame in follow(gateway, stream_id):
        failed = bool(frame.failure)
        data = json.dumps(frame.data, ensure_ascii=False)
        if as_json:
            click.echo(f'{{"seq":{frame.number},"event":{json.dumps(frame.event)},"data":{data}}}')
        else:
            click.echo(f"{frame.number:>6}  {_printable(frame.event):<16} {_printable(data)}")
    return not failed


def _watch_all(gateway: Remote, every: float, count: int) -> None:
    from rich.live import Live

    looks = 0
    with Live(table(_look(gateway), time.time()), auto_refresh=False) as live:
        while not count or (looks := looks + 1) < count:
            time.sleep(every)
            live.update(table(_look(gateway), time.time()), refresh=True)


@streams.command()
@click.argument("stream_id", metavar="ID")
@url_option
@key_option
def cancel(stream_id: str, url: str, key: str) -> None:
    """Cancel the stream ID, wherever it runs."""
    click.echo(cancel_by_id(remote(url, key), stream_id))


def cancel_by_id(gateway: Remote, stream_id: str) -> str:
    """Cancel and say what happened. Raises Unreachable when there is no such stream."""
    status, answer = gateway.ask("DELETE", "/api/streaming/" + quote(stream_id, safe=""))
    if status == 202:
        return f"{stream_id}: asked the node it runs on; not confirmed yet"
    if status >= 300 or not isinstance(answer, dict):
        raise Unreachable(f"{stream_id}: {error_text(status, answer)}")
    tokens = (answer.get("receipt") or {}).get("tokenCount")
    return f"{stream_id}: {answer.get('state', 'cancelled')}" + (
        f" after {tokens} tokens" if tokens is not None else ""
    )


def table(answer: dict[str, Any], now: float) -> Table:
    """The list as a table; `now` in Unix seconds."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(*_COLUMNS, title=f"{answer['count']} running")
    for entry in answer["streams"]:
        shown.add_row(*(Text(cell) for cell in _row(entry, now)))  # Text: a model's name is not markup
    return shown


def _look(gateway: Remote) -> dict[str, Any]:
    answer = gateway.need("GET", "/api/streaming/active")
    if not isinstance(answer, dict):
        raise Unreachable(f"{gateway.url} does not answer like a gateway")
    return answer


def _row(entry: dict[str, Any], now: float) -> list[str]:
    first = entry.get("firstTokenMs")
    names = ("streamId", "state", "model", "backend", "protocol", "owner", "node")
    return [
        *(_printable(str(entry.get(name, ""))) for name in names),
        f"{max(now - entry.get('startedAt', 0) / 1000, 0):.1f} s",
        "-" if first is None else f"{first:.0f} ms",
        str(entry.get("tokenCount", 0)),
    ]


def _printable(text: str) -> str:
    """Without control characters: a client chose these words, and a terminal would obey them."""
    return "".join(c if c.isprintable() else "?" for c in text)
