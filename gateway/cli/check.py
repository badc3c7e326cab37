"""`headgate check`: everything `serve` would complain of, without serving."""

from __future__ import annotations

from pathlib import Path

import click

from config.diff import diff
from config.schema import Config, Route
from gateway.cli.files import config_option, require


@click.command()
@config_option
@click.option(
    "--diff",
    "pair",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Two files instead: what a reload from the OLD to the NEW one would change.",
)
def check(path: Path | None, pair: tuple[Path, Path] | None) -> None:
    """Validate the configuration; every problem with file, line and a suggestion."""
    if pair:
        compare(*pair)
        return
    config, source = require(path)
    name = "the demo configuration" if source is None else str(source)
    backends, keys = len(config.backends), len(config.keys)
    click.echo(f"{name}: ok ({backends} backends, {len(config.routes)} routes, {keys} keys)")
    click.echo(
        f"  listens on {config.server.host}:{config.server.port}, operators {config.admin.host}:{config.admin.port}"
    )
    for line in summary(config):
        click.echo(f"  {line}")


def compare(old: Path, new: Path) -> None:
    """One line per setting that differs. Exits with 1 when one of the files has a problem."""
    changes = diff(require(old)[0], require(new)[0])
    for change in changes:
        click.echo(str(change))
    click.echo(f"{len(changes)} {'difference' if len(changes) == 1 else 'differences'}", err=True)


def summary(config: Config) -> list[str]:
    """The routes, one line each, in the order they are tried."""
    return [f"{', '.join((route.model, *route.aliases))} -> {targets(route)}" for route in config.routes] or [
        "no routes"
    ]


def targets(route: Route) -> str:
    """Where a route leads: `vllm-a/llama (weight 3), openai/gpt-4o-mini by least_busy`."""
    shown = [
        target.backend + (f"/{target.model}" if target.model else "") + _weight(target.weight) for target in route.to
    ]
    return ", ".join(shown) + (f" by {route.policy}" if len(shown) > 1 else "")


def _weight(weight: int) -> str:
    return "" if weight == 1 else f" (weight {weight})"
