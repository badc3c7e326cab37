"""The program `headgate`, also `python -m gateway`. Heavy imports wait for the command that needs them.

First of all it looks whether another distribution claims our top-level names: then nothing below could be trusted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version

import click

NAMES = ("gateway", "backends", "config")
_COMMANDS = ("bench", "chat", "check", "control", "keys", "routes", "schema", "serve", "streams", "top")


class _Lazy(click.Group):
    """Commands are files of gateway/cli, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"gateway.cli.{cmd_name}"), cmd_name)
        return command if isinstance(command, click.Command) else None


def _version() -> str:
    try:
        return version("headgate")
    except PackageNotFoundError:  # run from its sources
        return "0+source"


@click.version_option(_version(), message="headgate %(version)s")
@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Headgate: a streaming gateway for language models."""


def foreign_claims(claims: Mapping[str, Sequence[str]], own: str = "headgate") -> list[str]:
    """One sentence per top-level name of ours that another distribution installs too."""
    found = ((name, sorted(set(claims.get(name, ())) - {own})) for name in NAMES)
    return [f"'{name}' is also installed by {', '.join(others)}" for name, others in found if others]


def main() -> None:
    """The entry point. Exits with 0: fine, 1: a problem, 2: wrong usage."""
    for sentence in foreign_claims(packages_distributions()):
        print(f"headgate: warning: {sentence}; install Headgate on its own (uv tool, pipx, Docker)", file=sys.stderr)
    cli(prog_name="headgate")


if __name__ == "__main__":
    main()
