"""`headgate top`: what a gateway carries at this moment, and how well it went, in one live view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.http import Remote, Unreachable, key_option, remote, url_option
from gateway.cli.streams import table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_OWN = ("/api/streaming/active", "/api/streaming/statistics")
_ALL = ("/api/streams", "/api/statistics")  # of the operators' listener


@click.command()
@url_option
@key_option
@click.option(
    "--admin", envvar="HEADGATE_ADMIN_URL", default="", metavar="URL", help="Ask the admin listener: all owners."
)
@click.option("--admin-token", envvar="HEADGATE_ADMIN_TOKEN", default="", help="The admin listener's token.")
@click.option("--every", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Streams shown at most.")
@click.option("--once", is_flag=True, help="Look once, print, end.")
def top(url: str, key: str, admin: str, admin_token: str, every: float, limit: int, once: bool) -> None:
    """Watch the running streams and the figures of the ended ones; Ctrl-C ends it."""
    from rich.console import Console

    paths = _ALL if admin else _OWN
    gateway = remote(admin, admin_token) if admin else remote(url, key)
    shown = view(*look(gateway, paths), gateway.url, limit, None)
    console = Console()
    if once:
        (console if console.is_terminal else Console(width=200)).print(shown)
        return
    try:
        _watch(console, shown, gateway, paths, every, limit)
    except KeyboardInterrupt:
        return


def _watch(
    console: Console, shown: RenderableType, gateway: Remote, paths: tuple[str, str], every: float, limit: int
) -> None:
    from rich.live import Live
    from rich.text import Text

    before: dict[str, Any] | None = None
    with Live(shown, console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(every)
            try:
                active, figures = look(gateway, paths)
            except Unreachable as problem:  # it restarts: what is watched may go away for a while
                live.update(Text(problem.message), refresh=True)
                before = None
                continue
            rate = None if before is None else _rate(before, figures, every)
            live.update(view(active, figures, gateway.url, limit, rate), refresh=True)
            before = figures


def look(gateway: Remote, paths: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Running streams and statistics. Raises Unreachable."""
    active, figures = (gateway.need("GET", path) for path in paths)
    if not isinstance(active, dict) or not isinstance(figures, dict) or "streams" not in active:
        raise Unreachable(f"{gateway.url} does not answer like a gateway")
    return active, figures


def view(active: dict[str, Any], figures: dict[str, Any], url: str, limit: int, rate: float | None) -> RenderableType:
    """Two lines of figures and a table; the busiest streams first. `rate`: streams ended per second, None: unknown."""
    from rich.console import Group
    from rich.text import Text

    streams = sorted(active["streams"], key=lambda entry: -entry.get("tokenCount", 0))
    more = len(streams) - limit
    lines = [Text(_now(figures, url, rate)), Text(_so_far(figures))]
    lines += [Text(f"… and {more} more")] if more > 0 else []
    return Group(*lines[:2], table({**active, "streams": streams[:limit]}, time.time()), *lines[2:])


def _now(figures: dict[str, Any], url: str, rate: float | None) -> str:
    ended = "" if rate is None else f"  ended {rate:.1f}/s"
    return f"{url}  active {figures.get('active', 0)} (peak {figures.get('peakActive', 0)}){ended}"


def _so_far(figures: dict[str, Any]) -> str:
    first, whole = figures.get("firstTokenMs") or {}, figures.get("durationMs") or {}
    shares = (
        ("completed", "completionRate"),
        ("failed", "errorRate"),
        ("cancelled", "cancelRate"),
        ("timed out", "timeoutRate"),
    )
    parts = [f"so far {figures.get('total', 0)}", *(f"{name} {figures.get(field, 0):.1%}" for name, field in shares)]
    parts.append(f"first token p50 {_ms(first.get('p50'))} p99 {_ms(first.get('p99'))}")
    parts.append(f"whole p50 {_ms(whole.get('p50'))}")
    parts.append(f"tokens {figures.get('tokens', 0)}")
    return "  ".join(parts)


def _rate(before: dict[str, Any], now: dict[str, Any], seconds: float) -> float:
    def ended(figures: dict[str, Any]) -> int:
        return int(figures.get("total", 0)) - int(figures.get("active", 0))

    return max(ended(now) - ended(before), 0) / seconds


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
