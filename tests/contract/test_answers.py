"""Every answer of every server to every client, read by its real SDK: nothing is lost that both APIs can say."""

from __future__ import annotations

import pytest
from support.answers import SERVERS
from support.compatibility import GOOD, committed, explored
from support.plain_clients import CLIENTS

DOCUMENT = committed()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_answers(client: str, server: str) -> None:
    """An application would read another answer than the backend gave, or less of it than the document promises."""
    found = await explored("answers", client, server)
    promised = {
        row: said for (part, who, row, at), said in DOCUMENT.items() if (part, who, at) == ("answers", client, server)
    }
    assert set(found.values()) <= GOOD
    assert found == promised, "see what changed, then run: make compatibility"
