"""`headgate control`: what can be changed while the gateway runs, over its admin listener."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from copy import copy
from typing import Any
from urllib.parse import quote

import click
from msgspec.structs import replace

from gateway.cli.http import Remote, Unreachable, error_text, remote

_TARGETS = ("backend", "model", "route", "key", "owner", "user")
_ON = {"on": True, "off": False, "true": True, "false": False}


@click.group()
@click.option(
    "--admin",
    envvar="HEADGATE_ADMIN_URL",
    default="http://127.0.0.1:8081",
    show_default=True,
    help="The gateway's admin listener.",
)
@click.option("--token", envvar="HEADGATE_ADMIN_TOKEN", default="", help="Its token.")
@click.option("--as", "who", default="", help="Your name for the audit; else the name you are logged in by.")
@click.pass_context
def control(context: click.Context, admin: str, token: str, who: str) -> None:
    """Change a running gateway, all its nodes at once: switches, kills, pauses, rollout; reload its file."""
    context.obj = Operator(remote(admin, token), who or _login())


class _Command(click.Command):
    """A subcommand: where the gateway is and who asks may be said after its name, too."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        for name, shown in (("--admin", "The gateway's admin listener."), ("--token", "Its token.")):
            self.params.append(click.Option([name], default=None, help=shown))

    def invoke(self, context: click.Context) -> Any:
        admin, token = context.params.pop("admin"), context.params.pop("token")
        context.obj = context.obj.elsewhere(admin, token)
        return super().invoke(context)


control.command_class = _Command


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""


class Operator:
    """Asks the admin listener in somebody's name."""

    def __init__(self, gateway: Remote, who: str) -> None:
        self._gateway = gateway
        self._headers = {"X-Headgate-Admin": "1", "X-Headgate-Operator": who.encode("ascii", "replace").decode()}

    def elsewhere(self, admin: str | None, token: str | None) -> Operator:
        """The same operator at another gateway, or with another token; None: as it is."""
        asked = self._gateway if admin is None else remote(admin, self._gateway.key)
        found = copy(self)
        found._gateway = asked if token is None else replace(asked, key=token)
        return found

    def need(self, method: str, path: str, body: Any = None) -> Any:
        """The answer. Raises Unreachable for a refusal."""
        status, answer = self._gateway.ask(method, path, body, self._headers)
        if status >= 300:
            raise Unreachable(error_text(status, answer))
        return answer

    def told(self, method: str, path: str, body: Any = None) -> None:
        """Ask, and print the settings as they are then."""
        click.echo("\n".join(lines(self.need(method, path, body))))


def lines(state: dict[str, Any]) -> list[str]:
    """The settings, one line each; rules and pauses below."""
    said = [f"version {state['version']}"]
    switches = ("streaming", "background", "debug", "emergency")
    said += [f"{name}: {'on' if state[name] else 'off'}" for name in switches]
    said.append(f"mode: {state['mode'] or 'as configured'}")
    said += [f"route {route}: streaming {'on' if on else 'off'}" for route, on in state["routes"].items()]
    rollout = state["rollout"]
    said.append(f"rollout: {rollout['percent']:g} % of users (salt {rollout['salt']}), the others get {rollout['off']}")
    for word, rules in (("killed", state["killed"]), ("paused", state["paused"])):
        for rule in rules:
            label = f"{rule.get('id', '')} " if rule.get("id") else ""
            why = f" ({rule['reason']})" if rule["reason"] else ""
            said.append(f"{word}: {label}{rule['kind']} {rule['match']}{why}, by {rule['by']}")
    return said


@control.command()
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer as it is.")
@click.pass_obj
def show(gateway: Operator, as_json: bool) -> None:
    """What is set now."""
    state = gateway.need("GET", "/control")
    click.echo(json.dumps(state, ensure_ascii=False) if as_json else "\n".join(lines(state)))


@control.command()
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.pass_obj
def flags(gateway: Operator, settings: tuple[str, ...]) -> None:
    """Set switches: streaming=off background=on debug=on mode=battery_saver mode=none route:GLOB=off.

    `none` as the value of a mode or route sets it back to what the rest has.
    """
    wish: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"{setting!r} is not NAME=VALUE")
        said = None if value == "none" else _ON.get(value, value)
        if name.startswith("route:"):
            wish.setdefault("routes", {})[name.removeprefix("route:")] = said
        else:
            wish[name] = said
    gateway.told("PATCH", "/control", wish)


def _targets(kinds: tuple[str, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option("--for", "period", default=None, help="For how long: 30s, 10m, 2h; else until lifted.")(
            command
        )
        command = click.option("--reason", default="", help="Why; clients are told, too.")(command)
        for kind in reversed(kinds):
            command = click.option(f"--{kind}", default=None, help=f"A {kind}.")(command)
        return command

    return decorate


def _wish(targets: dict[str, Any], reason: str, period: str | None) -> dict[str, Any]:
    wish = {name: value for name, value in targets.items() if value}
    return {**wish, **({"reason": reason} if reason else {}), **({"for": period} if period else {})}


@control.command()
@_targets(_TARGETS)
@click.option("--all", "everything", is_flag=True, help="Every stream of every node.")
@click.pass_obj
def kill(gateway: Operator, /, everything: bool, reason: str, period: str | None, **targets: str | None) -> None:
    """End running streams now and let no new ones start: by backend, model glob, route, key, owner, user, or all."""
    wish = _wish({**targets, "all": everything}, reason, period)
    rule = gateway.need("POST", "/control/kill", wish)["rule"]
    click.echo(f"{rule['id']}: {rule['kind']} {rule['match']} is killed; undo: headgate control unkill {rule['id']}")


@control.command()
@click.argument("rule_id", metavar="ID")
@click.pass_obj
def unkill(gateway: Operator, rule_id: str) -> None:
    """Take the kill ID back."""
    gateway.told("DELETE", f"/control/kill/{rule_id}")


@control.command()
@_targets(("backend", "model"))
@click.pass_obj
def pause(gateway: Operator, /, reason: str, period: str | None, **targets: str | None) -> None:
    """Maintenance: a backend or model glob takes no new streams; running ones go on."""
    gateway.told("POST", "/control/pause", _wish(targets, reason, period))


@control.command()
@click.option("--backend", default=None, help="A backend.")
@click.option("--model", default=None, help="A model glob, as it was paused.")
@click.pass_obj
def resume(gateway: Operator, /, **targets: str | None) -> None:
    """End a pause."""
    gateway.told("POST", "/control/resume", _wish(targets, "", None))


@control.command()
@click.argument("switch", type=click.Choice(["on", "off"]))
@click.pass_obj
def emergency(gateway: Operator, switch: str) -> None:
    """Serve only keys of high priority, or everybody again."""
    gateway.told("POST", "/control/emergency", {"on": _ON[switch]})


@control.command()
@click.pass_obj
def reset(gateway: Operator) -> None:
    """Back to safe defaults: nothing killed, nothing paused, everything on."""
    gateway.told("POST", "/control/reset")


@control.command()
@click.argument("percent", type=click.FloatRange(0, 100))
@click.option("--salt", default=None, help="Another salt is another lot.")
@click.option("--off", type=click.Choice(["404", "whole"]), default=None, help="What the others get.")
@click.option("--error-rate", type=click.FloatRange(0, 1), default=None, help="Taken back above this.")
@click.option("--completion-rate", type=click.FloatRange(0, 1), default=None, help="Taken back below this.")
@click.pass_obj
def rollout(gateway: Operator, /, **fields: Any) -> None:
    """Let PERCENT of the users stream, always the same ones."""
    wish = {name: value for name, value in fields.items() if value is not None}
    gateway.told("PATCH", "/control", {"rollout": wish})


@control.command("close-breaker")
@click.argument("backend")
@click.pass_obj
def close_breaker(gateway: Operator, backend: str) -> None:
    """Close BACKEND's circuit breaker, in every worker of every node."""
    gateway.need("POST", f"/breakers/{quote(backend, safe='')}/reset")
    click.echo(f"the breaker of {backend} is closed")


@control.command()
@click.pass_obj
def audit(gateway: Operator) -> None:
    """Who changed what, oldest first, one JSON object per line."""
    for change in gateway.need("GET", "/control/audit")["changes"]:
        click.echo(json.dumps(change, ensure_ascii=False))


@control.command()
@click.pass_obj
def reload(gateway: Operator) -> None:
    """Have the file read again; says what changed, or what is wrong with it."""
    found = gateway.need("POST", "/reload")
    for change in found["changes"]:
        wait = " (needs a restart)" if change["restart"] else ""
        click.echo(f"{change['path']}: {change['before']} -> {change['after']}{wait}")
    click.echo("reloaded" if found["applied"] else "nothing to change", err=True)
