"""A reader of a stream that exists already: from behind its cursor, or not at all."""

from __future__ import annotations

import pytest
from support.inprocess import client, config_for, events, running

from gateway.streams.producer import Producer
from gateway.streams.reader import Reader

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi [tokens=400] [rate=100]"}]}


@pytest.mark.parametrize("read", [0, 3])
async def test_a_stream_that_leaves_while_its_client_comes_back_is_not_begun_anew(
    monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    """A node that hands its streams on would send a returning client the first frame again, and the client would count
    from there: every token twice. It is to come back, with the cursor it has."""
    attach = Producer.attach

    def leaving(self: Producer, reader: Reader) -> None:
        attach(self, reader)
        reader.cut()

    headers = {"Last-Event-ID": f"x.{read}" if read else "x.9000"}
    async with (
        running(config_for()) as gateway,
        client(gateway) as session,
        session.post("/api/streaming/chat", json=BODY, headers={"X-Stream-Id": "x"}) as first,
    ):
        await anext(aiter(first.content))
        monkeypatch.setattr(Producer, "attach", leaving)
        async with session.get("/api/streaming/x", headers=headers) as again:
            said = await again.text()
            assert (again.status, again.headers["Retry-After"]) == (503, "1"), said
        async with session.get("/api/streaming/x", headers={"Accept": "text/event-stream", **headers}) as source:
            assert source.status == 200
            assert not events(await source.text())
