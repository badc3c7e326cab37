"""Google's own SDK at the gateway, where it is installed: it is the definition of the format."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.inprocess import config_for, running

genai = pytest.importorskip("google.genai")


def work(base: str) -> dict[str, Any]:
    sdk = genai.Client(api_key="any", http_options={"base_url": base})
    ask: dict[str, Any] = {"model": "demo", "contents": "hi [tokens=5]"}
    said: dict[str, Any] = {
        "whole": sdk.models.generate_content(**ask).text,
        "streamed": "".join(part.text for part in sdk.models.generate_content_stream(**ask)),
        "models": [model.name for model in sdk.models.list()],
        "count": sdk.models.count_tokens(**ask).total_tokens,
        "calls": sdk.models.generate_content(model="demo", contents="[tool=search]").function_calls,
    }
    for name, text in (("error", "[fail=error@3]"), ("cut", "[fail=cut@3]"), ("full", "[fail=http429]")):
        with pytest.raises(genai.errors.APIError) as caught:
            list(sdk.models.generate_content_stream(model="demo", contents=text))
        said[name] = caught.value.status
    return said


async def test_the_sdk_generates_streams_lists_counts_and_raises() -> None:
    """An application written for Gemini could not be pointed at the gateway."""
    async with running(config_for()) as gateway:
        said = await asyncio.to_thread(work, f"http://127.0.0.1:{gateway.public_port}")
    assert said["whole"] == said["streamed"] == "You said: “hi”. What a "
    assert (said["models"], said["count"]) == (["models/demo"], 4)
    assert said["calls"][0].args == {"query": "demo"}
    assert (said["error"], said["cut"], said["full"]) == ("UNAVAILABLE", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
