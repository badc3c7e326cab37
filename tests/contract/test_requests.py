"""Every request of every client to every server: what arrives is in that server's own words, or the client is told."""

from __future__ import annotations

import pytest
from support.answers import SERVERS
from support.asks import ASKS
from support.compatibility import GOOD, committed, explored

DOCUMENT = committed()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", ASKS)
async def test_requests(client: str, server: str) -> None:
    """An application's request would reach another kind of backend changed, or in words it does not know."""
    found = await explored("requests", client, server)
    promised = {
        row: said for (part, who, row, at), said in DOCUMENT.items() if (part, who, at) == ("requests", client, server)
    }
    assert set(found.values()) <= GOOD
    assert found == promised, "see what changed, then run: make compatibility"
