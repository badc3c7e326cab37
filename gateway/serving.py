"""A serving process: from its logs to its exit code.

Law: it serves until it is told to stop, drains, gives everything back, and then it ends, whoever still reads its log.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys

import uvloop

from config.schema import Config
from gateway.app import Gateway
from gateway.observe.logging import Logs
from gateway.signals import Place, Signals


def run(config: Config, source: str | None, place: Place | None = None) -> int:
    """Serve in this process; the exit code."""
    logs, code = Logs(config.observe), 1
    try:
        code = uvloop.run(serve(config, source, place))
    finally:
        if not logs.close():
            os._exit(code)  # a process that is told to end does, whoever does not read its log
    return code


async def serve(config: Config, source: str | None, place: Place | None = None) -> int:
    """Serve until told to stop, then drain, see `Signals`. Returns the exit code; 1: it could not start."""
    told = Signals(place)
    told.listen()
    gateway = await _started(config, source, place)
    if gateway is None:
        return 1
    _settle_memory()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reloader.soon, "SIGHUP")
    gateway.log.info(
        "serving",
        url=f"http://{config.server.host}:{gateway.public_port}",
        admin=f"http://{config.admin.host}:{gateway.admin_port}",
        config=source or "demo",
        node=gateway.node,
    )
    await told.stop.wait()
    patience = gateway.services.config.server.drain_timeout
    gateway.log.info("draining", active=len(gateway.hub), timeout=float(patience))
    ended = await gateway.drain(patience, told.hurry)
    await gateway.close()
    gateway.log.info("stopped", streams_ended=ended)
    return 0


async def _started(config: Config, source: str | None, place: Place | None) -> Gateway | None:
    """A gateway that listens; None, and its reason on standard error, where it cannot."""
    try:
        gateway = Gateway(config, place, source)
    except ValueError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return None
    try:
        await gateway.start()
    except OSError as error:
        print(f"headgate: cannot listen: {error.strerror or error}", file=sys.stderr)
        await gateway.close()
        return None
    return gateway


def _settle_memory() -> None:
    """What is alive now stays alive: keep the cycle collector away from it, and let it run seldom. Streams are freed by
    reference counts; a full collection over thousands of them would hold every token for tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
