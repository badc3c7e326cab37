"""Prefixes of protocol families and repairs of backends: what is complained of before anything is served."""

from __future__ import annotations

import pytest

from config.load import load_text


def complaints(text: str) -> list[tuple[str, str]]:
    return [(c.path, c.suggestion) for c in load_text(text, "g.yaml", {}).complaints]


def test_an_unknown_repair_is_named_with_the_nearest() -> None:
    """A misspelt name would switch nothing off, silently."""
    found = complaints("backends:\n  up: {driver: demo, repairs: {don_marker: false, split_finish: true}}\n")
    assert found == [("backends.up.repairs.don_marker", "did you mean 'done_marker'?")]


@pytest.mark.parametrize("prefix", ["ollama", "/a b", "/a//b", "//a", "/../x", "/a?b", "/{x}", "http://x", "/"])
def test_a_prefix_must_be_the_beginning_of_a_path(prefix: str) -> None:
    """Such paths could never be asked for, or would be taken for a pattern."""
    assert [path for path, _ in complaints(f'server: {{prefixes: {{ollama: "{prefix}"}}}}')] == [
        "server.prefixes.ollama"
    ]


def test_a_prefix_of_no_family_is_named() -> None:
    """`opneai: /x` would leave OpenAI's paths where they were."""
    assert complaints("server: {prefixes: {opneai: /x}}") == [("server.prefixes.opneai", "did you mean 'openai'?")]


@pytest.mark.parametrize("prefix", ["/ollama", "/llm/ollama-1.x/", "/_x"])
def test_good_prefixes_pass(prefix: str) -> None:
    """What the documentation shows must be accepted."""
    assert complaints(f'server: {{prefixes: {{ollama: "{prefix}"}}}}') == []
