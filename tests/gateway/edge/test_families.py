"""Whose words an error is said in, by path and headers alone."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from gateway.edge.families import family_of

CASES = [
    ("/v1/chat/completions", {}, "openai"),
    ("/v1/nothing?x=/v1/messages", {}, "openai"),
    ("/v1/models", {}, "openai"),
    ("/v1/models", {"Anthropic-Version": "2023-06-01"}, "anthropic"),
    ("/v1/models", {"X-Goog-Api-Key": "k"}, "google"),
    ("/v1/messages", {}, "anthropic"),
    ("/v1/messages/count_tokens", {}, "anthropic"),
    ("/v1/messagesx", {}, "openai"),
    ("/v1beta/models/m:generateContent", {}, "google"),
    ("/v1/models/org/m:streamGenerateContent?alt=sse", {}, "google"),
    ("/v1beta", {}, "google"),
    ("/api/chat", {}, "ollama"),
    ("/api/tags?x=1", {}, "ollama"),
    ("/api/blobs/sha256:00", {}, "ollama"),
    ("/api/chat/x", {}, "native"),
    ("/api/streaming/chat", {}, "native"),
    ("/v1/streams/st_a", {}, "native"),
    ("/v1/streams", {"anthropic-version": "x"}, "native"),
    ("/v1/conversations/c/stream", {}, "native"),
    ("/v1/streamsx", {}, "openai"),
    ("/", {}, "native"),
    ("*", {}, "native"),
    ("", {}, "native"),
]


@pytest.mark.parametrize(("path", "headers", "family"), CASES)
def test_every_path_has_a_family(path: str, headers: dict[str, str], family: str) -> None:
    """An SDK cannot read an error in another protocol's shape: it shows the raw body, or nothing."""
    assert family_of(path, CIMultiDict(headers), {}) == family


def test_prefixes_move_a_family_and_free_its_old_paths() -> None:
    """A fronted app that owns /api/chat would get Ollama's errors, and Ollama's clients the app's."""
    prefixes = {"ollama": "/ollama/", "openai": "/ai"}
    assert family_of("/ollama/api/chat", {}, prefixes) == "ollama"
    assert family_of("/ollama/api/unknown", {}, prefixes) == "ollama"
    assert family_of("/api/chat", {}, prefixes) == "native"
    assert family_of("/ai/v1/models", {}, prefixes) == "openai"
    assert family_of("/v1/chat/completions", {}, prefixes) == "native"
    assert family_of("/v1/messages", {}, prefixes) == "anthropic"
    assert family_of("/aix/v1/models", {}, prefixes) == "native"
    assert family_of("/x/v1/messages", {}, {"openai": "/x", "anthropic": "/x"}) == "anthropic"
