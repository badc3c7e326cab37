"""`headgate keys`: make, list and revoke API keys. A key is shown once; only its hash is written down."""

from __future__ import annotations

import json
from pathlib import Path

import click

from config.load import load_text
from gateway.access.keys import create as create_key
from gateway.cli.files import config_option, find, require
from gateway.cli.revoking import disable


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--id", "key_id", required=True, help="A name for the key: letters, digits, '.', '_' and '-'.")
@click.option("--owner", required=True, help="Whoever the streams of this key belong to.")
@click.option("--max-streams", type=click.IntRange(min=0), default=0, help="Running streams at a time; 0: no limit.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: id, owner, key, hash.")
def create(key_id: str, owner: str, max_streams: int, as_json: bool) -> None:
    """Print a new key, once, and its entry for gateway.yaml."""
    secret, key = create_key(key_id, owner, max_streams=max_streams)
    entry: dict[str, object] = {"id": key.id, "owner": key.owner, "hash": key.hash}
    if max_streams:
        entry["max_streams"] = max_streams
    # ${ is the environment's in gateway.yaml; JSON is YAML, and its quoting is exact
    line = "  - " + json.dumps(entry, ensure_ascii=False).replace("${", "$${")
    loaded = load_text(f"keys:\n{line}\n", "keys", {})
    if loaded.config is None:
        raise click.UsageError("; ".join(f"{c.path.partition('.')[2]} {c.message}" for c in loaded.complaints))
    if as_json:
        click.echo(json.dumps({"id": key.id, "owner": key.owner, "key": secret, "hash": key.hash}))
        return
    click.echo(f"The key, shown this once:\n\n{secret}\n\nIts entry, under `keys:` in gateway.yaml:\n\n{line}")


@keys.command("list")
@config_option
def list_keys(path: Path | None) -> None:
    """List the configured keys. Hashes are cut; the keys themselves are nowhere."""
    config, _ = require(path)
    for key in config.keys:
        state = "revoked" if key.disabled else "active"
        limit = str(key.max_streams or "no limit")
        click.echo(
            f"{key.id}\t{key.owner}\t{state}\tstreams: {limit}\tmodels: {' '.join(key.models)}\t{key.hash[:15]}…"
        )
    if not config.keys:
        click.echo("no keys: every caller is 'anonymous'", err=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, path: Path | None) -> None:
    """Set `disabled: true` on the key's entry in the file, leaving everything else as it is."""
    found = find(path)
    if found is None:
        raise click.UsageError("there is no gateway.yaml here; name it with --config")
    config, _ = require(found)
    key = next((key for key in config.keys if key.id == key_id), None)
    if key is None:
        known = ", ".join(key.id for key in config.keys) or "none"
        click.echo(f"there is no key '{key_id}' in {found} (known: {known})", err=True)
        raise SystemExit(1)
    if key.disabled:
        click.echo(f"'{key_id}' is revoked already")
        return
    if not disable(found, key_id):
        click.echo(
            f"{found} could not be edited safely: set `disabled: true` on the entry '{key_id}' by hand", err=True
        )
        raise SystemExit(1)
    click.echo(f"revoked '{key_id}' in {found}; a running gateway takes it up within seconds")
