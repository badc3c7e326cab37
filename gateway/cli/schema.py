"""`headgate schema`: the JSON Schema of gateway.yaml."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of gateway.yaml, for editors."""
    from config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
