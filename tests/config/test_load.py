"""gateway.yaml: what is accepted, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from backends import catalog
from config.json_schema import json_schema
from config.load import ConfigError, Loaded, demo_config, load, load_file, load_text
from config.schema import Backend, Config, OnDisconnect, Target

EXAMPLE = Path(__file__).resolve().parents[2] / "gateway.yaml"
HASH = "sha256:" + "a" * 64


class _Driver:
    """A driver as `load` sees one: it takes options it knows."""

    needs_key = False

    def __init__(self, name: str, backend: Backend) -> None:
        if "speed" in backend.options and not isinstance(backend.options["speed"], int):
            raise ValueError("options.speed must be a whole number")


class _Paid(_Driver):
    needs_key = True


REAL = {name: catalog.load(name) for name in catalog.names()}
DRIVERS = {"demo": _Driver, "openai": _Paid}


def read(text: str, env: dict[str, str] | None = None) -> Loaded:
    return load_text(text, "g.yaml", env or {}, drivers=DRIVERS)


def config_of(text: str, env: dict[str, str] | None = None) -> Config:
    loaded = read(text, env)
    assert loaded.config is not None, loaded.complaints
    return loaded.config


def test_example_file_loads_and_fits_the_schema() -> None:
    """The shipped gateway.yaml would not start, or editors would underline it."""
    assert load(EXAMPLE, env={}).routes == demo_config().routes
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert not list(Draft202012Validator(schema).iter_errors(yaml.safe_load(EXAMPLE.read_text("utf-8"))))


def test_example_shows_the_defaults() -> None:
    """The example promises that what is left out has the value shown; a changed default would make it lie."""
    shown, default = load(EXAMPLE, env={}), Config()
    for section in ("server", "admin", "registry", "streams", "access", "observe"):
        assert getattr(shown, section) == getattr(default, section)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n", "{}", "server:\nbackends:\nroutes:\n"])
def test_empty_file_is_the_default(text: str) -> None:
    """A file with everything commented out would be refused."""
    assert config_of(text) == Config()


def test_short_forms_and_typed_values() -> None:
    """The forms the documentation shows would not mean what it says."""
    config = config_of("""
streams: {total_timeout: 1m30s, keepalive: 250ms, transcript_cap: 64KiB, on_disconnect: continue}
backends:
  demo: {driver: demo, api_key: s3cret, options: {speed: 5, on: [1, two, null]}}
routes:
  - {model: a, to: demo, on_disconnect: grace 30s}
  - {model: b, to: {backend: demo, model: 4.10}}
  - {model: c, to: [demo, {backend: demo, weight: 3}], policy: least_busy, on_disconnect: cancel}
""")
    assert config.streams.total_timeout == 90.0
    assert config.streams.keepalive == 0.25
    assert config.streams.transcript_cap == 65536
    assert config.streams.on_disconnect == OnDisconnect("continue")
    a, b, c = config.routes
    assert a.to == (Target("demo"),)
    assert a.on_disconnect is not None
    assert a.on_disconnect.action == "grace"
    assert a.on_disconnect.grace == 30.0
    assert b.to == (Target("demo", "4.10"),)
    assert c.to == (Target("demo"), Target("demo", weight=3))
    assert config.backends["demo"].options == {"speed": 5, "on": [1, "two", None]}
    assert "s3cret" not in repr(config)
    assert config.backends["demo"].api_key.reveal() == "s3cret"


def test_every_problem_is_told_at_once_with_line_path_and_suggestion() -> None:
    """An operator would mend a file one restart at a time."""
    loaded = read("""server: {prot: 1, workers: 4}
backends:
  claude:
    driver: opnai
    url: ftp://x
  paid: {driver: openai}
  odd: {driver: demo, options: {speed: fast}}
routes:
  - {model: x, to: cluade}
  - {model: y, to: [{backend: odd, wieght: 2}], policy: wieghted}
keys:
  - {id: a, owner: o, hash: nonsense}
""")
    seen = {(c.line, c.path): c.suggestion for c in loaded.complaints}
    assert loaded.config is None
    assert seen[(1, "server.prot")] == "did you mean 'port'?"
    assert "redis://" in seen[(1, "server.workers")]
    assert seen[(4, "backends.claude.driver")] == "did you mean 'openai'?"
    assert (5, "backends.claude.url") in seen
    assert "${OPENAI_API_KEY}" in seen[(6, "backends.paid.api_key")]
    assert (7, "backends.odd") in seen
    assert seen[(9, "routes[0].to[0].backend")] == "did you mean 'claude'?"
    assert seen[(10, "routes[1].to[0].wieght")] == "did you mean 'weight'?"
    assert seen[(10, "routes[1].policy")] == "did you mean 'weighted'?"
    assert (12, "keys[0].hash") in seen
    assert len(seen) == 10
    assert str(loaded.complaints[0]).startswith("g.yaml:1: server.")


@pytest.mark.parametrize(
    ("text", "line", "path", "says"),
    [
        ("- a\n", 1, "", "expected a mapping"),
        ("just words", 1, "", "expected a mapping"),
        ("server: [1]", 1, "server", "expected a mapping"),
        ("server:\n\tport: 1\n", 2, "", "not valid YAML"),
        ("server: {port: 1", 1, "", "not valid YAML"),
        ("server: {}\n---\nadmin: {}\n", 2, "", "not valid YAML"),
        ("a: \x00", 1, "", "character"),
        ("server:\n  port: 1\n  port: 2\n", 3, "server.port", "given twice (first on line 2)"),
        ("server: !!python/object:os.system {}", 1, "server", "not accepted"),
        ("server: {host: !!python/name:os.system x}", 1, "server.host", "not accepted"),
        ("server: {port: eighty}", 1, "server.port", "whole number"),
        ("server: {port: 70000}", 1, "server.port", "not a port"),
        ("server: {page: maybe}", 1, "server.page", "true or false"),
        ("server: {host: }", 1, "server.host", "no value"),
        ("streams: {keepalive: soon}", 1, "streams.keepalive", "duration"),
        ("registry: {replay: 99999999999999999999999d}", 1, "registry.replay", "duration"),
        ("streams: {transcript_cap: big}", 1, "streams.transcript_cap", "size"),
        ("streams: {on_disconnect: grace}", 1, "streams.on_disconnect", "cancel, continue"),
        ("backends: {a: {url: 'http://x'}}", 1, "backends.a.driver", "required"),
        ("backends: {a: {driver: demo, url: 'http://u:p@x'}}", 1, "backends.a.url", "credentials"),
        ("backends: {a: {driver: demo, url: 'http://x:99999'}}", 1, "backends.a.url", "not an http"),
        *(
            (f"backends: {{a: {{driver: demo, api_key: {key}}}}}", 1, "backends.a.api_key", "line break")
            for key in (r'"sk-a\n"', r'"sk-a\r\nX-B: 1"', '" sk-a"', '"sk-…"', r'"a\tb"')
        ),
        *(
            (f"backends: {{a: {{driver: demo, headers: {{{header}}}}}}}", 1, "backends.a.headers", "no header")
            for header in ('"X A": b', '"X-A:": b', '"": b', r'"X-A": "b\nc"', r'"X-A": "b\x01"', '"É": b')
        ),
        ("server: {host: 0.0.0.0}", 1, "server.host", "no keys"),
        ("admin: {host: '::'}", 1, "admin.host", "admin.token"),
        ("admin: {port: 8080}", 1, "admin.port", "the same"),
        ("registry: {url: 'mongodb://x'}", 1, "registry.url", "registry"),
        ("registry:\n  lease: 1ms", 2, "registry.lease", "too short"),
        ("registry: {lease: 499ms}", 1, "registry.lease", "too short"),
        ("registry: {url: localhost}", 1, "registry.url", "not an address"),
        ("registry:\n  url: redis://h:99999/0", 2, "registry.url", "port"),
        ("registry: {url: 'redis://h:0'}", 1, "registry.url", "port"),
        ("registry: {url: 'redis://:s3/cret@h:6379/0'}", 1, "registry.url", "port"),
        ("registry: {url: 'redis:///0'}", 1, "registry.url", "no host"),
        ("registry: {url: 'redis://h/zero'}", 1, "registry.url", "not a number"),
        ("registry: {url: 'redis://h/0?sockt_timeout=1'}", 1, "registry.url", "'sockt_timeout' is not a parameter"),
        ("registry: {url: 'redis://h/0?db=x'}", 1, "registry.url", "not a number"),
        ("registry: {url: 'redis://h/0?ssl_cert_reqs=none'}", 1, "registry.url", "not a parameter"),
        ("registry: {url: 'rediss://h/0?ssl_cert_reqs=maybe'}", 1, "registry.url", "one of required, optional, none"),
        ("registry: {url: 'redis://a,b/0'}", 1, "registry.url", "several hosts"),
        ("registry: {url: 'redis+sentinel://a:26379,b'}", 1, "registry.url", "no service"),
        ("registry: {url: 'redis+sentinel://a/m/x'}", 1, "registry.url", "not a number"),
        ("registry: {url: 'redis+cluster://a:1,b:x'}", 1, "registry.url", "port"),
        ("registry: {url: 'redis+cluster://a/1'}", 1, "registry.url", "no numbered"),
        ("registry: {url: 'unix://'}", 1, "registry.url", "no socket"),
        ("server: {workers: 2}", 1, "server.workers", "registry in memory"),
    ],
)
def test_what_is_refused(text: str, line: int, path: str, says: str) -> None:
    """A mistake would be accepted, or told in the wrong place."""
    complaint = read(text).complaints[0]
    assert (complaint.line, complaint.path) == (line, path)
    assert says in complaint.message


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://localhost",
        "redis://user:p%2Fw@h:6379/15?client_name=x",
        "redis://[::1]:6379/0",
        "rediss://h:6380/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://u:p@a:26379,b:26379/mymaster/2",
        "rediss+cluster://a:7000,b:7001",
    ],
)
def test_addresses_of_registries_that_are_right(url: str) -> None:
    """A registry that works would be refused."""
    assert config_of(f"registry: {{url: '{url}'}}").registry.url == url


def test_an_unreadable_item_neither_moves_nor_hides_the_others() -> None:
    """One broken item would make later complaints blame the wrong line, or keep them back until it is mended."""
    loaded = read("""backends: {demo: {driver: demo}, b: {url: ftp://x}}
routes:
  - model: a
    wieght: 1
  - 17
  - {to: nobody, attempts: 99}
  - model: c
    to:
      - [1]
      - {model: m}
      - {backend: demo, weight: -1}
  - {model: d, to: {backnd: demo}}
  - {model: e, to: demo, policy: wrong}
keys:
  - {id: a, owner: o}
  - {id: b, owner: o, hash: nonsense}
""")
    assert [(c.line, c.path) for c in loaded.complaints] == [
        (1, "backends.b.driver"),
        (1, "backends.b.url"),
        (3, "routes[0].to"),
        (4, "routes[0].wieght"),
        (5, "routes[1]"),
        (6, "routes[2].model"),
        (6, "routes[2].to[0].backend"),
        (6, "routes[2].attempts"),
        (9, "routes[3].to[0]"),
        (10, "routes[3].to[1].backend"),
        (11, "routes[3].to[2].weight"),
        (12, "routes[4].to[0].backnd"),
        (12, "routes[4].to[0].backend"),
        (13, "routes[5].policy"),
        (15, "keys[0].hash"),
        (16, "keys[1].hash"),
    ]


def test_providers_need_a_key_at_home_only() -> None:
    """A forgotten key would show with the first request, or a proxy that needs none could not be configured."""

    def paths(backend: str, env: dict[str, str] | None = None) -> list[str]:
        loaded = load_text(f"backends: {{a: {{{backend}}}}}", "g.yaml", env or {}, drivers=REAL)
        return [c.path for c in loaded.complaints] or [f"notice {n.path}" for n in loaded.notices]

    for driver, home in (
        ("openai", "https://api.openai.com/v1"),
        ("anthropic", "https://api.anthropic.com"),
        ("google", "https://generativelanguage.googleapis.com"),
    ):
        assert paths(f"driver: {driver}") == ["backends.a.api_key"]
        assert paths(f"driver: {driver}, url: '{home}'") == ["backends.a.api_key"]
        assert paths(f"driver: {driver}, api_key: '${{K}}'") == ["backends.a.api_key"]
        assert paths(f"driver: {driver}, api_key: '${{K}}'", {"K": ""}) == ["backends.a.api_key"]
        assert paths(f"driver: {driver}, api_key: '${{K:-}}'") == ["notice backends.a.api_key"]
        assert paths(f"driver: {driver}, headers: {{X-Anything: '1'}}") == ["backends.a.api_key"]
        assert not paths(f"driver: {driver}, api_key: '${{K:-}}'", {"K": "secret"})
        assert not paths(f"driver: {driver}, headers: {{Authorization: Bearer x}}")
        assert not paths(f"driver: {driver}, url: 'http://127.0.0.1:9'")
    assert not paths("driver: vllm, url: 'http://127.0.0.1:9'")


def test_an_empty_key_hash_switches_its_key_off() -> None:
    """Keys could not come from the environment, or a key nobody set would open or shut the gateway in silence."""
    text = "keys: [{id: a, owner: o, hash: '${A:-}'}, {id: b, owner: o, hash: '${B:-}'}]\nserver: {host: '${H:-}'}"
    assert [k.id for k in config_of(text, {"B": HASH, "H": "0.0.0.0"}).keys] == ["b"]
    loaded = read(text, {"H": "127.0.0.1"})
    assert loaded.config is not None
    assert not loaded.config.keys
    assert [n.path for n in loaded.notices if n.path.startswith("keys")] == ["keys[0]", "keys[1]"]
    assert [c.path for c in read(text, {"H": "0.0.0.0"}).complaints] == ["server.host"]
    assert [c.path for c in read("keys: [{id: a, owner: o, hash: ''}]").complaints] == ["keys[0].hash"]


def test_driver_options_are_blamed_where_they_stand() -> None:
    """A misspelt option would be told at its backend's first line, its path twice, and without a suggestion."""
    loaded = load_text(
        "backends:\n  demo:\n    driver: demo\n    options:\n      tokens: 3\n      tokens_per_secnd: 5\n"
        "  odd:\n    driver: openai\n    url: http://127.0.0.1:9\n    options:\n      completions: 7\n"
        "  none:\n    driver: google\n    api_key: k\n    options:\n      x: 7\n"
        "  vllm:\n    driver: vllm\n",
        "g.yaml",
        {},
        drivers=REAL,
    )
    assert [(c.line, c.path) for c in loaded.complaints] == [
        (6, "backends.demo.options.tokens_per_secnd"),
        (11, "backends.odd.options.completions"),
        (16, "backends.none.options.x"),
        (17, "backends.vllm"),
    ]
    assert loaded.complaints[0].suggestion == "did you mean 'tokens_per_second'?"
    assert not any("backends." in c.message for c in loaded.complaints)


def test_notices_of_what_serves_nobody() -> None:
    """A file that serves nothing, or a route nobody can reach, would pass for right."""
    assert [n.path for n in read("server: {port: 1}").notices] == ["backends"]
    assert [n.path for n in read("").notices] == ["backends"]
    loaded = read("""backends: {demo: {driver: demo}}
routes:
  - {model: "x-*", to: demo, match: {owner: acme}}
  - {model: "x-*", to: demo}
  - {model: [x-1, "x-2*"], to: demo}
  - {model: [x-1, y], to: demo}
  - {model: "*", to: demo}
  - {model: z, to: demo}
""")
    assert [(n.line, n.path) for n in loaded.notices] == [(5, "routes[2]"), (8, "routes[5]")]


def test_what_there_is_is_listed_once() -> None:
    """Every unknown setting of one section would repeat the whole list."""
    complaints = read("xyzzy: 1\nplugh: 2\nstreams: {mode: abracadabra}").complaints
    assert [c.suggestion.startswith("known: ") for c in complaints] == [True, False, False]
    assert str(complaints[2]).count("battery_saver") == 1


def test_duplicate_keys_are_refused_by_id_and_by_hash() -> None:
    """Two owners could share one key, and each would see the other's streams."""
    text = f"keys:\n  - {{id: a, owner: x, hash: '{HASH}'}}\n  - {{id: a, owner: y, hash: '{HASH}'}}\n"
    assert {(c.line, c.path) for c in read(text).complaints} == {(3, "keys[1].id"), (3, "keys[1].hash")}


def test_beyond_loopback_with_keys_or_leave() -> None:
    """A guarded gateway could not be opened to the network."""
    assert config_of(f"server: {{host: 0.0.0.0}}\nkeys: [{{id: a, owner: x, hash: '{HASH}'}}]").keys
    assert config_of("server: {host: 0.0.0.0}\naccess: {allow_anonymous: true}").access.allow_anonymous
    assert config_of("server: {workers: 2}\nregistry: {url: 'redis://r:6379/0'}").server.workers == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing or binary file would end in a traceback."""
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for name in ("absent", ".", "latin"):
        loaded = load_file(tmp_path / name, env={})
        assert loaded.config is None
        assert len(loaded.complaints) == 1
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent", env={})


def test_notices_for_what_later_releases_use() -> None:
    """An operator would believe that a setting has an effect which it has not."""
    loaded = read("""
store: {conversations: true}
apps: [{path: /, url: "http://127.0.0.1:3000"}]
backends: {demo: {driver: demo}}
routes:
  - {model: a, to: demo, policy: cheapest, on_failure: restart}
  - {model: b, to: demo, policy: ordered}
""")
    assert loaded.config is not None
    assert [(n.line, n.path) for n in loaded.notices] == [
        (2, "store"),
        (3, "apps"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "server: {prot: 1}",
        "routes: [{model: a}]",
        "routes: [{model: a, to: [{model: b}]}]",
        "streams: {keepalive: soon}",
    ],
)
def test_schema_refuses_what_load_refuses(text: str) -> None:
    """Editors would not show a mistake that `serve` stops at."""
    assert list(Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))
    assert read(text).config is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("server: {port: abc}", "remove the line"),
        ("streams: {total_timeout: 5 minutes}", "remove the line"),
        ("streams: {total_timeout: [5s]}", "one value"),
        ("server: {protocols: native}", "[a, b]"),
        ("server: 8080", "{name: value}"),
        ("backends: {a: {url: 'http://h'}}", "add driver: …"),
    ],
)
def test_a_wrong_kind_of_value_comes_with_a_suggestion_too(text: str, hint: str) -> None:
    """A user who mistook a type would be told that it is wrong, and left with it."""
    assert [hint in complaint.suggestion for complaint in read(text).complaints] == [True]


def test_origins_are_what_browsers_say() -> None:
    """A page that is served by no web server (an extension, a desktop shell, a file) could not be let in, or a typing
    error in an origin would lock a page out without a word."""

    def paths(*origins: str) -> list[str]:
        return [c.path for c in load_text(f"server: {{cors: {{origins: {list(origins)}}}}}", "g.yaml", {}).complaints]

    assert not paths(
        "https://app.example.com", "http://localhost:3000", "null", "app://obsidian.md", "tauri://localhost"
    )
    assert paths("https://a/b", "htps://a", "a.example", "*") == [f"server.cors.origins[{i}]" for i in range(4)]
