"""`headgate check`: everything `serve` would complain of, without serving."""

from __future__ import annotations

from pathlib import Path

import click

from config.schema import Config, Route
from gateway.cli.files import config_option, require


@click.command()
@config_option
def check(path: Path | None) -> None:
    """Validate the configuration; every problem with file, line and a suggestion."""
    config, source = require(path)
    name = "the demo configuration" if source is None else str(source)
    backends, keys = len(config.backends), len(config.keys)
    click.echo(f"{name}: ok ({backends} backends, {len(config.routes)} routes, {keys} keys)")
    click.echo(
        f"  listens on {config.server.host}:{config.server.port}, operators {config.admin.host}:{config.admin.port}"
    )
    for line in summary(config):
        click.echo(f"  {line}")


def summary(config: Config) -> list[str]:
    """The routes, one line each, in the order they are tried."""
    return [f"{route.model} -> {targets(route)}" for route in config.routes] or ["no routes"]


def targets(route: Route) -> str:
    """Where a route leads: `vllm-a/llama (weight 3), openai/gpt-4o-mini by least_busy`."""
    shown = [
        target.backend + (f"/{target.model}" if target.model else "") + _weight(target.weight) for target in route.to
    ]
    return ", ".join(shown) + (f" by {route.policy}" if len(shown) > 1 else "")


def _weight(weight: int) -> str:
    return "" if weight == 1 else f" (weight {weight})"
