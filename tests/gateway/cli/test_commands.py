"""The command line: what it prints, what it edits, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from config.load import load
from gateway.__main__ import cli, foreign_claims
from gateway.access.keys import Keyring
from gateway.cli.chat import Turn, new_stream_id
from gateway.cli.revoking import disabled_text

ROOT = Path(__file__).resolve().parents[3]
HASH = "sha256:" + "b" * 64


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_check_the_demo_and_a_file(tmp_path: Path) -> None:
    """`check` would pass a file that `serve` refuses, or say too little to mend it."""
    assert run("check").exit_code == 0
    file = tmp_path / "gateway.yaml"
    file.write_text("backends: {demo: {driver: dmo}}\nroutes:\n  - {model: x, to: dem}\n", "utf-8")
    bad = run("check")
    assert bad.exit_code == 1
    assert "gateway.yaml:3: routes[0].to[0].backend: there is no backend 'dem'" in bad.output
    assert "did you mean 'demo'?" in bad.output
    assert "2 problems" in bad.output


def test_check_names_the_routes(tmp_path: Path) -> None:
    """The summary would not show where models go."""
    (tmp_path / "g.yaml").write_text(
        "backends: {a: {driver: vllm, url: 'http://127.0.0.1:1'}}\n"
        "routes: [{model: 'x*', to: [{backend: a, model: m, weight: 2}, a], policy: ordered}]\n",
        "utf-8",
    )
    good = run("check", "--config", "g.yaml")
    assert good.exit_code == 0, good.output
    assert "x* -> a/m (weight 2), a by ordered" in good.output


def test_usage_errors_end_with_2() -> None:
    """Scripts could not tell a wrong call from a real problem."""
    assert run("nonsense").exit_code == 2
    assert run("keys", "create").exit_code == 2
    assert run("streams", "ls", "--url", "ftp://x").exit_code == 2


def test_it_says_which_version_it_is() -> None:
    """A report of a fault could not say what it is about."""
    said = run("--version")
    assert (said.exit_code, said.output.split()[0]) == (0, "headgate")
    assert said.output.split()[1][0].isdigit()


def test_schema_is_json() -> None:
    """Editors would get no schema."""
    assert "backends" in json.loads(run("schema").output)["properties"]


def test_created_key_signs_in(tmp_path: Path) -> None:
    """The printed entry and the printed key would not belong together."""
    made = json.loads(run("keys", "create", "--id", "web", "--owner", "acme", "--json").output)
    assert set(made) == {"id", "owner", "key", "hash"}
    shown = run("keys", "create", "--id", "app", "--owner", "a: 'b' ${x}", "--max-streams", "5").output
    secret = next(line for line in shown.splitlines() if line.startswith("hg_app_"))
    (tmp_path / "gateway.yaml").write_text("keys:\n" + shown.splitlines()[-1] + "\n", "utf-8")
    caller = Keyring(load("gateway.yaml", env={}).keys).identify({"x-api-key": secret}, None)
    assert (caller.owner, caller.key_id, caller.max_streams) == ("a: 'b' ${x}", "app", 5)
    assert "app" in run("keys", "list").output
    assert secret not in run("keys", "list").output


def test_created_key_needs_a_name() -> None:
    """A key could be made whose entry `check` refuses."""
    assert run("keys", "create", "--id", "a b", "--owner", "x").exit_code == 2


@pytest.mark.parametrize(
    "entry",
    [
        "  - {id: web, owner: acme, hash: '%s'}  # flow\n",
        "  # above\n  - id: web   # block\n    owner: acme\n    hash: %s\n",
        "  - owner: acme\n    id: web\n    hash: %s\n    disabled: false   # for now\n",
    ],
)
def test_revoke_edits_only_its_entry(tmp_path: Path, entry: str) -> None:
    """Revoking would lose comments, or revoke another key."""
    other = "  - {id: other, owner: o, hash: 'sha256:" + "c" * 64 + "'}  # stays\n"
    file = tmp_path / "gateway.yaml"
    file.write_text("# mine\nkeys:\n" + other + entry % HASH + "# end\n", "utf-8")
    before = set(file.read_text("utf-8").split())
    done = run("keys", "revoke", "web")
    assert done.exit_code == 0, done.output
    keys = {key.id: key.disabled for key in load(file, env={}).keys}
    assert keys == {"other": False, "web": True}
    lost = before - set(file.read_text("utf-8").split())
    assert not {word for word in lost if word not in ("false", "{id:")}
    assert other in file.read_text("utf-8")
    assert "already" in run("keys", "revoke", "web").output


def test_revoke_says_why_it_cannot(tmp_path: Path) -> None:
    """A key that was not revoked would be believed to be."""
    assert run("keys", "revoke", "web").exit_code == 2
    (tmp_path / "gateway.yaml").write_text(f"keys: [{{id: web, owner: o, hash: '{HASH}'}}]", "utf-8")
    gone = run("keys", "revoke", "wbe")
    assert gone.exit_code == 1
    assert "known: web" in gone.output
    assert disabled_text("keys: [{id: '${ID}'}]", "web") is None


def test_routes_explain(tmp_path: Path) -> None:
    """An operator could not find out where a model goes."""
    (tmp_path / "gateway.yaml").write_text(
        "backends: {v: {driver: vllm, url: 'http://127.0.0.1:1'}}\n"
        "routes: [{model: 'gpt-*', to: v}, {model: fast, to: {backend: v, model: llama}, degrade: {partial: true}}]\n",
        "utf-8",
    )
    shown = run("routes", "explain", "fast")
    assert shown.exit_code == 0
    assert "routes[0] gpt-*: does not fit" in shown.output
    assert "model llama" in shown.output
    assert "instead of an error: partial" in shown.output
    assert run("routes", "explain", "other").exit_code == 1


def test_streams_without_a_gateway() -> None:
    """A gateway that is down would end in a traceback."""
    for arguments in (("ls",), ("cancel", "st_x"), ("watch", "--count", "1")):
        result = run("streams", *arguments, "--url", "http://127.0.0.1:1")
        assert result.exit_code == 1
        assert "no gateway at" in result.output


def test_foreign_claims_are_named() -> None:
    """PyPI's `config` would shadow ours, and nothing would say so."""
    assert foreign_claims({"config": ["headgate"], "gateway": ["headgate"]}) == []
    assert foreign_claims({"config": ["headgate", "config"]}) == ["'config' is also installed by config"]


def test_chat_ids_and_rates() -> None:
    """The id would not be a stream id, so Ctrl-C would cancel nothing."""
    one, two = new_stream_id(), new_stream_id()
    assert one != two
    assert len(one) == 35
    assert one.startswith("st_")
    assert one == one.lower()
    assert Turn("x", 11, 1.0, 2.0).rate() == "11 tokens, first after 1000 ms, 10 per second"
    assert Turn("", 0, 0.0, 0.0).rate().startswith("0 tokens")


def test_as_a_module_and_without_heavy_imports() -> None:
    """`python -m gateway` would not be the program, or a small command would load the whole server."""
    code = "import sys; sys.argv=['headgate','schema']; import runpy; runpy.run_module('gateway', run_name='__main__')"
    report = "print(sorted({'aiohttp', 'openai', 'rich'} & set(sys.modules)), file=sys.stderr)"
    probe = f"import atexit, sys\natexit.register(lambda: {report})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["type"] == "object"
    assert done.stderr.strip().endswith("[]")
