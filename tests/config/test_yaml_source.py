"""From YAML text to values: the environment, aliases, bombs, and whatever else a file may hold."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import Complaint, Loaded, load_text
from config.schema import Config


def read(text: str, env: dict[str, str] | None = None) -> Loaded:
    return load_text(text, "g.yaml", env or {})


def config_of(text: str, env: dict[str, str] | None = None) -> Config:
    loaded = read(text, env)
    assert loaded.config is not None, loaded.complaints
    return loaded.config


def only(text: str, env: dict[str, str] | None = None) -> Complaint:
    loaded = read(text, env)
    assert loaded.config is None
    assert len(loaded.complaints) == 1, loaded.complaints
    return loaded.complaints[0]


def test_environment_fills_scalars() -> None:
    """Containers are configured by environment; numbers and switches must come out typed."""
    text = """
server: {port: "${PORT:-8080}", page: "${PAGE:-true}", host: "${HOST:-127.0.0.1}"}
backends:
  demo:
    driver: demo
    headers: {x-a: "a-${A}-$${A}"}
    options:
      speed: ${N}
      text: "${N}"
"""
    loaded = load_text(text, "g", {"PORT": "9000", "PAGE": "off", "HOST": "", "A": "1", "N": "5"})
    assert loaded.config is not None, loaded.complaints
    server, demo = loaded.config.server, loaded.config.backends["demo"]
    assert (server.port, server.page, server.host) == (9000, False, "127.0.0.1")
    assert demo.headers["x-a"].reveal() == "a-1-${A}"
    assert demo.options == {"speed": 5, "text": "5"}


def test_environment_cannot_inject_structure_and_is_never_shown() -> None:
    """A hostile or secret value of the environment would become configuration, or be printed."""
    evil = "x}\nadmin: {host: 0.0.0.0}\nserver: {host: 0.0.0.0"
    config = config_of("admin: {token: '${K}'}", {"K": evil})
    assert config.admin.token.reveal() == evil
    assert (config.admin.host, config.server) == (Config().admin.host, Config().server)
    assert "0.0.0.0" not in str(only("backends: {demo: {driver: demo, api_key: '${K}'}}", {"K": evil}))
    complaint = only("server: {port: '${K}'}", {"K": "hunter2"})
    assert "hunter2" not in str(complaint)
    assert "${K}" in complaint.message


def test_environment_missing_or_malformed_is_told() -> None:
    """An unset secret would be sent as an empty key."""
    missing = only("backends: {a: {driver: openai, api_key: '${NO_KEY}'}}")
    assert (missing.line, missing.path) == (1, "backends.a.api_key")
    assert "NO_KEY is not set" in missing.message
    assert "${" in only("server: {host: '${1x}'}").message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"b{i}: &b{i} [{','.join(['*' + p] * 9)}]\n"
            for i, p in enumerate(["a", "b0", "b1", "b2", "b3", "b4", "b5", "b6"])
        ),
        "a: &a [*a]\n",
        "a: " + "[" * 5000,
        "a: [" + "1," * 60000 + "]",
        "a: [&a x" + ", *a" * 300 + "]",
        "#" * (1024 * 1024 + 1),
    ],
    ids=["multiplying", "cyclic", "deep", "many", "aliases", "large"],
)
def test_bombs_are_refused(text: str) -> None:
    """A small file could take all memory, or overflow the stack."""
    loaded = read(text)
    assert loaded.config is None
    assert loaded.complaints


def test_aliases_and_merges_in_reason() -> None:
    """Common settings could not be shared between backends."""
    config = config_of("""
backends:
  a: &a {driver: demo, max_connections: 4}
  b: {<<: *a, max_connections: 5}
""")
    assert (config.backends["b"].driver, config.backends["b"].max_connections) == ("demo", 5)


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["driver", "to", "id", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*Config.__struct_fields__, "x"]), _VALUES))
def test_any_document_gets_an_answer(document: dict[str, Any]) -> None:
    """A strange file would crash the gateway, or a reload, instead of being complained of."""
    loaded = read(yaml.safe_dump(document, allow_unicode=True))
    assert (loaded.config is None) == bool(loaded.complaints)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("server:{}[]&*a!|>-'\"\n\t $#,%@`?0"), max_size=40))
def test_any_text_gets_an_answer(text: str) -> None:
    """As above, for text that is hardly YAML."""
    loaded = read(text)
    assert (loaded.config is None) == bool(loaded.complaints)
