"""Finding and reading gateway.yaml for the commands. Complaints go to stderr; the exit code is 1.

The drivers are handed to `config.load` here, because configuration may not know them.
"""

from __future__ import annotations

from pathlib import Path

import click

from config.load import Complaint, Loaded, demo_config, load_file
from config.schema import Config

DEFAULT = Path("gateway.yaml")

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HEADGATE_CONFIG",
    help="The configuration; without it ./gateway.yaml, and without that the demo.",
)


def find(path: Path | None) -> Path | None:
    """The file that is meant; None: there is none, and the demo configuration is used."""
    if path is not None:
        return path
    return DEFAULT if DEFAULT.exists() else None


def read(path: Path) -> Loaded:
    """A file with its drivers' opinions."""
    from backends import catalog

    return load_file(path, drivers={name: catalog.load(name) for name in catalog.names()})


def require(path: Path | None) -> tuple[Config, Path | None]:
    """The configuration to work with; prints complaints and notices. Exits with 1 when there are complaints."""
    found = find(path)
    if found is None:
        return demo_config(), None
    loaded = read(found)
    for notice in loaded.notices:
        click.echo(f"notice: {line_of(notice)}", err=True)
    if loaded.config is None:
        show(loaded)
        raise SystemExit(1)
    return loaded.config, found


def show(loaded: Loaded) -> None:
    """Every complaint, one line each, its suggestion below it."""
    for complaint in loaded.complaints:
        click.echo(line_of(complaint), err=True)
        if complaint.suggestion:
            click.echo(f"    {complaint.suggestion}", err=True)
    count = len(loaded.complaints)
    click.echo(f"{count} {'problem' if count == 1 else 'problems'}", err=True)


def line_of(complaint: Complaint) -> str:
    """`file:line: path: message`."""
    return ": ".join(part for part in (complaint.where, complaint.path, complaint.message) if part)
