"""Addresses that cannot be had: which setting is to blame."""

from __future__ import annotations

import socket

import pytest
from msgspec.structs import replace

from config.schema import Admin, Config, Server
from gateway.app import Gateway
from gateway.ports import hold


async def test_a_taken_port_is_told_with_its_setting() -> None:
    """An operator would see `address already in use` and not know which of two listeners is meant."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config(server=Server(port=port), admin=Admin(port=0))
        for wrong, setting in (
            (config, "server.port"),
            (replace(config, server=Server(port=0), admin=Admin(port=port)), "admin.port"),
        ):
            gateway = Gateway(wrong)
            with pytest.raises(OSError, match="in use") as told:
                await gateway.start()
            await gateway.close()
            assert told.value.strerror is not None
            assert told.value.strerror.startswith(f"{setting}: 127.0.0.1:{port}: ")
            with pytest.raises(OSError, match=f"{setting}: 127.0.0.1:{port}: "):
                hold(wrong)


def test_a_host_that_is_none_is_told_as_such() -> None:
    """A misspelt host would be blamed on its port."""
    with pytest.raises(OSError, match=r"server\.host: no\.such\.host\.invalid:0: "):
        hold(Config(server=Server(host="no.such.host.invalid", port=0)))
