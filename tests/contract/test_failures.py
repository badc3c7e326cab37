"""Every failure before every server, as every client's SDK meets it: none is taken for an answer."""

from __future__ import annotations

import pytest
from support.answers import SERVERS
from support.compatibility import GOOD, committed, explored
from support.plain_clients import CLIENTS

DOCUMENT = committed()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_failures(client: str, server: str) -> None:
    """An application would take half an answer for a whole one, or retry what it should not."""
    found = await explored("failures", client, server)
    promised = {
        row: said for (part, who, row, at), said in DOCUMENT.items() if (part, who, at) == ("failures", client, server)
    }
    assert set(found.values()) <= GOOD
    assert found == promised, "see what changed, then run: make compatibility"
