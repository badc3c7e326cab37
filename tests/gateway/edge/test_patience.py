"""Waits that end: one timer for all of them."""

from __future__ import annotations

import asyncio

from gateway.edge.patience import Patience


async def test_each_waits_for_its_own_time() -> None:
    """A head would wait for ever for a frame that does not come, or go out before its time because of another one."""
    loop = asyncio.get_running_loop()
    patience = Patience(loop, 0.1)
    began = loop.time()
    first = patience.until(loop.create_future())
    await asyncio.sleep(0.05)
    second = patience.until(loop.create_future())
    await first
    assert loop.time() - began >= 0.09
    assert not second.done()
    await asyncio.wait_for(second, 5)
    assert loop.time() - began >= 0.14
    await asyncio.wait_for(patience.until(loop.create_future()), 5)
    assert patience._timer is None


async def test_who_was_served_is_let_alone_and_forgotten() -> None:
    """A frame that came in time would be an error when the time is over, and what waited would fill the memory."""
    loop = asyncio.get_running_loop()
    patience = Patience(loop, 0.05)
    gone = patience.until(loop.create_future())
    gone.cancel()
    for _ in range(1000):
        patience.until(loop.create_future()).set_result(None)
        assert len(patience._waiting) <= 2
    late = patience.until(loop.create_future())
    await asyncio.wait_for(late, 5)
    assert not patience._waiting
