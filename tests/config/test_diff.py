"""What differs between two configurations: each setting by its path, and no secret."""

from __future__ import annotations

from config.diff import diff, effective, shown
from config.load import load_text
from config.schema import Config

OLD = """
server: {port: 8080}
streams: {total_timeout: 5m}
backends:
  a: {driver: openai, url: "http://h:1", api_key: sk-one, options: {x_token: t-one, n: 1}}
  b: {driver: demo}
routes: [{model: m, to: a}, {model: "*", to: b}]
keys: [{id: web, owner: acme, hash: "sha256:%s"}]
registry: {url: "redis://me:hunter2@h:6379/0"}
""" % ("a" * 64)


def read(text: str) -> Config:
    loaded = load_text(text, "g.yaml", {})
    assert loaded.config is not None, loaded.complaints
    return loaded.config


def paths(new: str) -> dict[str, str]:
    return {change.path: str(change) for change in diff(read(OLD), read(new))}


def test_the_same_is_no_difference() -> None:
    """A reload of an unchanged file must touch nothing."""
    assert diff(read(OLD), read(OLD)) == []


def test_each_setting_by_its_path() -> None:
    """Whoever reads the difference must find the line."""
    new = OLD.replace("5m", "6m").replace("b: {driver: demo}", "c: {driver: demo}").replace('"*", to: b', '"*", to: c')
    found = paths(new)
    assert found["streams.total_timeout"] == "streams.total_timeout: 300 -> 360"
    assert found["routes[1].to[0].backend"] == "routes[1].to[0].backend: b -> c"
    assert "(none)" in found["backends.b"]
    assert "(none)" in found["backends.c"]


def test_secrets_are_only_said_to_differ() -> None:
    """A difference in a log must not be a leak, and still must be seen."""
    new = OLD.replace("sk-one", "sk-two").replace("t-one", "t-two").replace("a" * 64, "b" * 64)
    new = new.replace("hunter2", "hunter3")
    found = paths(new)
    assert set(found) == {"backends.a.api_key", "backends.a.options.x_token", "registry.url", "keys[web].hash"}
    said = " ".join(found.values()) + str(shown(read(new)))
    assert not any(secret in said for secret in ("sk-", "t-one", "t-two", "hunter", "b" * 20))
    assert found["registry.url"].endswith("(needs a restart)")


def test_what_waits_for_a_restart_stays_as_it_was() -> None:
    """The parts of the gateway must go by one and the same port."""
    new = read(OLD.replace("8080", "9090").replace("5m", "6m").replace("hunter2", "hunter3"))
    found = effective(read(OLD), new)
    assert (found.server.port, float(found.streams.total_timeout)) == (8080, 360)
    assert found.registry == read(OLD).registry
    assert {c.path for c in diff(found, new)} == {"server.port", "registry.url"}
    assert all(c.restart for c in diff(found, new))


def test_numbers_of_options_are_no_secrets() -> None:
    """Who changes `max_tokens` must see to what, and who nests a credential must not see it in a log."""
    text = "{max_tokens: 100, pin: 1234, headers: {authorization: Bearer-abc, x: one}}"
    old = OLD.replace("{driver: demo}", f"{{driver: demo, options: {text}}}", 1)
    new = old.replace("100", "200").replace("1234", "9876").replace("abc", "def")
    found = {change.path.rpartition(".")[2]: str(change) for change in diff(read(old), read(new))}
    assert found["max_tokens"].endswith("100 -> 200")
    assert set(found) == {"max_tokens", "pin", "authorization"}
    said = " ".join(found.values()) + str(shown(read(new))) + " ".join(map(str, diff(read(OLD), read(new))))
    assert not any(secret in said for secret in ("1234", "9876", "Bearer"))
