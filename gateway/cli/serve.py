"""`headgate serve`: run the gateway until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.files import config_option, require


@click.command()
@config_option
def serve(path: Path | None) -> None:
    """Serve. Without a file: the demo backend, on this machine only."""
    config, source = require(path)
    from gateway.workers import run

    raise SystemExit(run(config, None if source is None else str(source)))
