"""The files of deploy/, as far as they can be held against the program without a cluster or Docker."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from support.gateway import ROOT

from backends import catalog
from config.load import Loaded, load_file

KUBERNETES = ROOT / "deploy/kubernetes"
PROVIDERS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY")
SECRETS = {"HEADGATE_ADMIN_TOKEN": "t" * 32, "HEADGATE_KEY_HASH": "sha256:" + "0" * 64} | dict.fromkeys(PROVIDERS, "k")
DRIVERS = {driver: catalog.load(driver) for driver in catalog.names()}


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) -> manifest."""
    found = {}
    for name in ("gateway.yaml", "redis.yaml", "ingress.yaml"):
        for one in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8")):
            found[one["kind"], one["metadata"]["name"]] = one
    return found


@pytest.mark.parametrize("name", ["deploy/gateway.yaml", "deploy/kubernetes/headgate.yaml"])
def test_shipped_configurations_have_no_mistakes(name: str) -> None:
    """Breaks when a shipped configuration would not start, or does nothing of what it says."""
    loaded = load_file(ROOT / name, env=SECRETS, drivers=DRIVERS)
    assert not loaded.complaints
    assert not loaded.notices


def test_a_pod_lives_as_long_as_its_drain() -> None:
    """Breaks when Kubernetes kills a pod whose streams may still run, or asks the gateway on paths it does not have."""
    config = load_file(KUBERNETES / "headgate.yaml", env=SECRETS).config
    assert config is not None
    pod = manifests()["Deployment", "headgate"]["spec"]["template"]["spec"]
    [gateway] = pod["containers"]
    pause = float(gateway["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + config.server.drain_timeout + 30
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/health"
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert ports == {"http": config.server.port, "admin": config.admin.port}


def test_services_find_their_pods() -> None:
    """Breaks when a service selects nothing, or the ingress and the configuration name what is not there."""
    found = manifests()
    labels = [one["spec"]["template"]["metadata"]["labels"] for (kind, _), one in found.items() if kind == "Deployment"]
    for (kind, _), one in found.items():
        if kind == "Service":
            assert one["spec"]["selector"] in labels
    [rule] = found["Ingress", "headgate"]["spec"]["rules"]
    assert ("Service", rule["http"]["paths"][0]["backend"]["service"]["name"]) in found
    assert "redis://redis:6379" in (KUBERNETES / "headgate.yaml").read_text(encoding="utf-8")


def of_image(**env: str) -> Loaded:
    """The image's configuration, in its environment and this one."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    own = dict(line.removeprefix("ENV ").split("=", 1) for line in dockerfile.splitlines() if line.startswith("ENV H"))
    [name] = re.findall(r"^COPY (\S+) /etc/headgate/gateway.yaml$", dockerfile, re.MULTILINE)
    assert f"!{name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return load_file(ROOT / name, env=own | env, drivers=DRIVERS)


def test_a_container_is_open_only_when_somebody_said_so() -> None:
    """Breaks when `docker run -p` serves anybody who comes by, or cannot be reached with a key."""
    assert [c.path for c in of_image().complaints] == ["server.host"]
    assert [c.path for c in of_image(HEADGATE_ALLOW_ANONYMOUS="true", HEADGATE_ADMIN_HOST="0.0.0.0").complaints] == [
        "admin.host"
    ]
    keyed = of_image(HEADGATE_KEY_HASH=SECRETS["HEADGATE_KEY_HASH"]).config
    assert keyed is not None
    assert (keyed.server.host, keyed.admin.host, len(keyed.keys)) == ("0.0.0.0", "127.0.0.1", 1)


def test_compose_starts_without_and_with_secrets() -> None:
    """Breaks when `docker compose up` needs an .env, or one does not do what .env.example says."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["gateway"]
    for given in ({}, SECRETS):
        env = given | {name: _filled(value, given) for name, value in compose["environment"].items()}
        loaded = of_image(**env)
        assert loaded.config is not None, loaded.complaints
        assert (loaded.config.server.host, loaded.config.server.port) == ("0.0.0.0", 8080)
        assert loaded.config.admin.host == ("0.0.0.0" if given else "127.0.0.1")
        assert loaded.config.registry.url == "redis://redis:6379/0"
        assert bool(loaded.config.keys) is bool(given)
        assert len(loaded.notices) == (0 if given else 4)  # the key and three providers
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert all(f"#{name}=" in example for name in SECRETS)


def _filled(value: str, env: dict[str, str]) -> str:
    """A value as Compose fills it in: `${NAME:-default}` and `${NAME:+replacement}`."""
    found = re.fullmatch(r"\$\{(\w+):([-+])(.*)\}", value)
    if found is None:
        return value
    name, kind, text = found.groups()
    return (env.get(name) or text) if kind == "-" else (text if env.get(name) else "")


def test_compose_stops_no_sooner_than_the_drain() -> None:
    """Breaks when `docker compose stop` or deploy.sh kill a gateway whose streams may still run."""
    config = load_file(ROOT / "deploy/gateway.yaml", env={}).config
    assert config is not None
    gateway = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["gateway"]
    minutes, seconds = re.fullmatch(r"(\d+)m(\d+)s", gateway["stop_grace_period"]).groups()  # type: ignore[union-attr]
    assert int(minutes) * 60 + int(seconds) >= config.server.drain_timeout + 30
    # PORT= gives each of several a free one
    assert gateway["ports"] == ["127.0.0.1:${PORT-8080}:8080", "127.0.0.1:${ADMIN_PORT-8081}:8081"]
    script = (ROOT / "deploy/deploy.sh").read_text(encoding="utf-8")
    assert int(re.search(r"stop_seconds=(\d+)", script)[1]) >= config.server.drain_timeout + 30  # type: ignore[index]


def test_the_script_is_one() -> None:
    """Breaks when deploy.sh has a mistake that bash sees before it runs."""
    subprocess.run(["bash", "-n", str(ROOT / "deploy/deploy.sh")], check=True)
