"""`headgate routes explain`: which route a model's name takes, and why."""

from __future__ import annotations

from pathlib import Path

import click

from config.values import glob_matches
from gateway.cli.check import targets
from gateway.cli.files import config_option, require


@click.group()
def routes() -> None:
    """Look at the routes."""


@routes.command()
@click.argument("model")
@config_option
def explain(model: str, path: Path | None) -> None:
    """Show which route MODEL takes and where that leads. Exits with 1 when none fits."""
    config, source = require(path)
    if not config.routes and len(config.backends) == 1:
        click.echo(f"no routes: the only backend, {next(iter(config.backends))}, takes every model")
        return
    for number, route in enumerate(config.routes):
        if not glob_matches(route.model, model):
            click.echo(f"routes[{number}] {route.model}: does not fit")
            continue
        click.echo(f"routes[{number}] {route.model}: taken -> {targets(route)}")
        for target in route.to:
            backend = config.backends[target.backend]
            address = backend.url or "the driver's own address"
            click.echo(f"    {target.backend}: driver {backend.driver}, {address}, model {target.model or model}")
        return
    click.echo(f"no route for '{model}' in {source or 'the demo configuration'}", err=True)
    raise SystemExit(1)
