"""`headgate routes explain`: which route a request takes, where that leads, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from backends.contract.errors import BackendError
from config.schema import Config
from gateway.cli.files import config_option, require
from gateway.cli.http import Remote, Unreachable, remote
from gateway.routing.matching import Asking
from gateway.routing.router import Router


@click.group()
def routes() -> None:
    """Look at the routes."""


@routes.command()
@click.argument("model")
@click.option("--key", default="", help="The id of an API key (not the key).")
@click.option("--owner", default="", help="Whose key it is.")
@click.option("--user", default="")
@click.option("--workspace", default="")
@click.option("--conversation", default="")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request; repeatable.")
@click.option("--prompt", default="", help="The prompt's text: its size and beginning may matter.")
@click.option("--admin", "--url", "url", envvar="HEADGATE_ADMIN_URL", default="", help="The gateway's admin listener.")
@click.option("--token", envvar="HEADGATE_ADMIN_TOKEN", default="", help="Its token.")
@click.option("--offline", is_flag=True, help="From the file alone, without asking the running gateway.")
@config_option
def explain(
    model: str, path: Path | None, headers: tuple[str, ...], url: str, token: str, offline: bool, **said: str
) -> None:
    """Show which route MODEL takes, the backends in the order they would be asked, and why. Asks the running gateway
    (its admin listener, as --admin or the configuration says), or else goes by the configuration. Exits with 1 when
    none fits."""
    config, source = require(path)
    named = dict(pair.partition("=")[::2] for pair in headers)
    if not url and not config.routes and len(config.backends) == 1:
        click.echo(f"no routes: the only backend, {next(iter(config.backends))}, takes every model")
        return
    found = None if offline else _asked(_admin(config, url, token), model, named, said, must=bool(url))
    if found is None:
        click.echo("no running gateway was asked: breakers, load and speed are not known", err=True)
        found = _computed(config, model, named, said)
    for line in told(config, found):
        click.echo(line)
    if not found or not found[-1]["taken"]:
        click.echo(f"no route for '{model}' in {url or source or 'the demo configuration'}", err=True)
        raise SystemExit(1)


def _admin(config: Config, url: str, token: str) -> Remote:
    """The admin listener: the one named, or else the configured one."""
    if url:
        return remote(url, token)
    host = "127.0.0.1" if config.admin.host in ("0.0.0.0", "::", "") else config.admin.host
    return Remote(f"http://{host}:{config.admin.port}", config.admin.token.reveal() or token)


def _asked(
    admin: Remote, model: str, headers: dict[str, str], said: dict[str, Any], *, must: bool
) -> list[dict[str, Any]] | None:
    """What the running gateway says; None when there is none. Raises Unreachable for that when it `must` answer."""
    query = {"model": model, **said, **{f"header.{name}": value for name, value in headers.items()}}
    try:
        found = admin.need("GET", f"/routes/explain?{urlencode(query)}")
    except Unreachable:
        if must:
            raise
        return None
    return list(found["routes"]) if isinstance(found, dict) and "routes" in found else None


def _computed(config: Config, model: str, headers: dict[str, str], said: dict[str, Any]) -> list[dict[str, Any]]:
    asking = Asking(
        model=model,
        chars=len(said["prompt"]),
        headers={name.lower(): value for name, value in headers.items()},
        **said,
    )
    try:
        return list(Router(config, dict).explain(asking))
    except BackendError as error:
        raise click.ClickException(error.message) from None


def told(config: Config, found: list[dict[str, Any]]) -> list[str]:
    """The explanation, line by line."""
    lines = []
    for route in found:
        name = f"routes[{route['route']}] {route['model']}"
        if not route["taken"]:
            lines.append(f"{name}: does not fit: {route['why']}")
            continue
        lines.append(f"{name}: taken, by {route['policy']}, on failure: {route['onFailure']}")
        if route.get("degrade"):
            lines[-1] += f", instead of an error: {', '.join(route['degrade'])}"
        lines += [_candidate(config, number, one) for number, one in enumerate(route["candidates"], 1)]
    return lines


def _candidate(config: Config, number: int, one: dict[str, Any]) -> str:
    backend = config.backends.get(one["backend"])
    where = f"driver {backend.driver}, {backend.url or 'its own address'}" if backend else "not in this file"
    state = ""
    if "breaker" in one:
        state = f"; breaker {one['breaker']}" + (f" for {one['retryIn']:g} s more" if one["retryIn"] else "")
        state += ", full" if one["full"] else ""
        state += ", paused by an operator" if one.get("paused") else ""
        state += f", spared for {one['spared']:g} s" if one["spared"] else ""
    return (
        f"    {number}. {one['backend']}: {where}, model {one['model']}; {one['why']} (score {one['score']:g}){state}"
    )
