"""A browser's own EventSource whose line breaks: it reconnects by itself, and reads one answer once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.request
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from support.gateway import start_gateway

pytestmark = pytest.mark.edge

CONFIG = """
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo}]
"""
WATCH = """
window.ids = []; window.opened = 0; window.over = false;
const source = new EventSource('/api/v1/chat/stream?message=' + encodeURIComponent('[tokens=60] [rate=40]'));
for (const name of ['start', 'token', 'usage', 'done'])
  source.addEventListener(name, (e) => window.ids.push([name, e.lastEventId]));
source.onopen = () => { window.opened += 1; };
source.onerror = () => { window.over = source.readyState === 2; };
"""


class Breaking(threading.Thread):
    """A line to the gateway that breaks each streamed answer after so many bytes."""

    def __init__(self, port: int, limit: int) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target, self.limit, self.broken = port, limit, 0

    def run(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.copy, args=(near, far), daemon=True).start()
            threading.Thread(target=self.answer, args=(far, near), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def answer(self, source: socket.socket, target: socket.socket) -> None:
        seen = 0
        try:
            while data := source.recv(4096):
                if data.startswith(b"HTTP/1.1 "):
                    seen = 0
                seen = seen + len(data) if seen or b"text/event-stream" in data else 0
                if seen > self.limit:
                    self.broken += 1
                    target.sendall(data[: len(data) // 2])
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other thread still reads from it: closing alone would not tell
            end.close()


def test_an_event_source_survives_a_line_that_breaks(browser: webdriver.Chrome) -> None:
    """Every break would start, and pay for, another answer, or lose words of this one; and it would never stop."""
    gateway = start_gateway(CONFIG)
    line = Breaking(int(gateway.url.rsplit(":", 1)[1]), 2500)
    line.start()
    try:
        browser.get(f"http://127.0.0.1:{line.port}/")
        browser.execute_script(WATCH)  # type: ignore[no-untyped-call]
        WebDriverWait(browser, 25).until(lambda b: b.execute_script("return window.over"))  # type: ignore[no-untyped-call]
        ids: list[Any] = browser.execute_script("return window.ids")  # type: ignore[no-untyped-call]
        with urllib.request.urlopen(f"{gateway.url}/api/streaming/statistics", timeout=5) as answer:
            told = json.load(answer)
    finally:
        line.listener.close()
        gateway.stop()
    stream_id = ids[0][1].rpartition(".")[0]
    assert [i for _, i in ids] == [f"{stream_id}.{n}" for n in range(1, len(ids) + 1)]
    assert [name for name, _ in ids] == ["start", *["token"] * 60, "usage", "done"]
    assert line.broken >= 1
    assert told["total"] == 1, told
