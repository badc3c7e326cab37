"""Log lines, as they come out."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from support.gateway import ROOT
from support.process import free_port, wait_until

import gateway.observe.logging as logging_module
from config.schema import Observe
from gateway.observe.access_log import AccessLog, refusal_line, stream_line
from gateway.observe.lines import Lines, _Clock
from gateway.observe.logging import Logs, get_logger
from gateway.streams.settle import settle
from gateway.streams.stream import Identity, Receipt, State, Stream


def receipt(state: State = State.CANCELLED, model: str = "fast") -> Receipt:
    who = Identity(
        id="st_a", owner="acme", protocol="native", model=model, backend="demo", upstream_model="m", node="n",
        started_ms=1, user_id="alice@example.org",
    )  # fmt: skip
    stream = Stream(who, 0.0)
    stream.progress(1, 0.5)
    stream.progress(2, 0.75)
    stream.end(state, 2.0, by="client", reason="DELETE")
    return settle(stream, tap=None, bytes_in=10, now=2.0, ended_ms=2001, prompt_chars=8)


class Slow(io.StringIO):
    """A terminal that takes nothing until told so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(10)
        return super().write(text)


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs = Logs(Observe(log_format="json"), stream)
    yield stream
    logs.close()


def lines(observe: Observe, write: object) -> list[dict[str, object]]:
    stream = io.StringIO()
    logs = Logs(observe, stream)
    try:
        write()  # type: ignore[operator]
    finally:
        logs.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_stream_is_one_line() -> None:
    """Breaks when the summary of a stream lacks a figure operators read first, or names the user."""
    [line] = lines(Observe(log_format="json"), lambda: AccessLog(get_logger("access")).finished(receipt()))
    assert line["event"] == "stream"
    assert line["level"] == "info"
    assert (line["state"], line["ended_by"], line["reason"], line["owner"]) == ("cancelled", "client", "DELETE", "acme")
    assert (line["tokens"], line["rate"], line["average_gap_ms"]) == (2, 4.0, 250.0)
    assert (line["first_token_ms"], line["duration_ms"]) == (500.0, 2000.0)
    assert "alice" not in json.dumps(line)


def test_failures_are_warnings() -> None:
    """Breaks when a failed stream does not stand out."""
    [line] = lines(
        Observe(log_format="json", log_level="warning"),
        lambda: [AccessLog(get_logger()).finished(receipt(s)) for s in (State.COMPLETED, State.UPSTREAM_ERROR)],
    )
    assert (line["level"], line["state"]) == ("warning", "upstream_error")


def test_secrets_stay_inside() -> None:
    """Breaks when a key reaches the log, by a field's name, in a text, in a URL or in a traceback."""

    def write() -> None:
        logger = get_logger()
        logger.info("calling with Bearer abcdef123456", api_key="plain", url="https://x/y?key=AIzaabc&z=1")
        try:
            raise ValueError("sk-proj-0123456789abcdef was refused")
        except ValueError:
            logger.exception("failed", url="redis://user:hunter2@host/0")
        try:
            raise KeyError("Bearer yyyyyyyyy")
        except KeyError:
            logging.getLogger("otherlib").exception("foreign")
        logging.getLogger("somelib").warning("header Authorization: Bearer %s", "zzzzzzzzz")

    text = json.dumps(lines(Observe(log_format="json"), write))
    for secret in ("abcdef", "plain", "AIza", "hunter2", "zzzz", "yyyy"):
        assert secret not in text
    assert "z=1" in text
    assert "ValueError" in text
    assert "KeyError" in text
    assert "somelib" in text


def test_a_client_cannot_forge_a_line() -> None:
    """Breaks when a line break in a model's name starts a new log line on a console."""
    stream = io.StringIO()
    logs = Logs(Observe(log_format="console"), stream)
    AccessLog(get_logger()).finished(receipt(model="a\n2026 [error] forged"))
    get_logger().info("one\ntwo")
    logs.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_slow_terminal_stops_nobody() -> None:
    """Breaks when writing a log line waits for the terminal instead of being dropped and counted."""
    slow = Slow()
    logs = Logs(Observe(log_format="json"), slow, size=10)
    for n in range(100):
        get_logger().info("line", n=n)
    assert logs.dropped >= 80
    slow.go.set()
    logs.close()
    assert 1 <= len(slow.getvalue().splitlines()) <= 20


def test_auto_is_json_for_a_pipe() -> None:
    """Breaks when collected logs are coloured text instead of JSON."""
    [line] = lines(Observe(), lambda: get_logger("x").info("hello", n=1))
    assert (line["event"], line["n"], line["logger"]) == ("hello", 1, "headgate.x")


def test_closing_gives_the_process_back(out: io.StringIO) -> None:
    """Breaks when logs stay attached after close, so that a second start writes every line twice."""
    before = len(logging.getLogger().handlers)
    second = Logs(Observe(log_format="json"), io.StringIO())
    second.close()
    second.close()
    assert len(logging.getLogger().handlers) == before


def test_refusals_name_no_query() -> None:
    """Breaks when a query string, which may hold a key and the message, is logged."""
    line = refusal_line(code="unauthenticated", status=401, method="GET", path="/api/v1/chat/stream?token=k&message=hi")
    assert line == {"code": "unauthenticated", "status": 401, "method": "GET", "path": "/api/v1/chat/stream"}


def test_absent_figures_are_left_out() -> None:
    """Breaks when a stream without a token is logged with empty figures."""
    stream = Stream(Identity("st_b", "o", "native", "m", "b", "m", "n", 1), 0.0)
    stream.end(State.SHED, 1.0, by="gateway", reason="full")
    line = stream_line(settle(stream, tap=None, bytes_in=0, now=1, ended_ms=1, prompt_chars=0))
    assert "rate" not in line
    assert "first_token_ms" not in line
    assert line["state"] == "shed"


def test_the_last_lines_have_their_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a log nobody reads keeps a process from ending."""
    monkeypatch.setattr(logging_module, "_PATIENCE", 0.1)
    for count in (1, 100):  # room for the end mark, and none
        slow = Slow()
        logs = Logs(Observe(log_format="json"), slow, size=10)
        for n in range(count):
            get_logger().info("line", n=n)
        assert logs.close() is False
        assert logs.close() is True
        slow.go.set()


def test_a_gateway_whose_log_nobody_reads_serves_and_ends() -> None:
    """Breaks when a stuck log collector stops streams, or holds up a drain until the process is killed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    port = free_port()
    config = {"server": {"port": port, "drain_timeout": "1s"}, "admin": {"port": 0},
              "backends": {"d": {"driver": "demo"}},
              "routes": [{"model": "*", "to": "d"}]}  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        command = [sys.executable, "-m", "gateway", "serve", "--config", file.name]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        try:
            wait_until(lambda: _healthy(port), 20, "it serves")
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()
            os.close(reader)
            os.close(writer)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nobody else listens to this process's logs, as in a gateway."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = before


def test_the_short_road_says_what_the_common_one_does() -> None:
    """A line per stream would lose a field, its level or its time, or show a secret, because it goes another way."""

    def write() -> None:
        AccessLog(Lines()).finished(receipt())
        AccessLog(Lines()).finished(receipt(State.UPSTREAM_ERROR, model="sk-proj-0123456789abcdef"))
        Lines("headgate.x").info("odd", text="\udcff", other={1: 2})

    common = lines(Observe(log_format="json"), write)
    with alone():
        short = lines(Observe(log_format="json"), write)
    assert [line.pop("timestamp", "")[:11] for line in short] == [line.pop("timestamp")[:11] for line in common]  # type: ignore[attr-defined,index]
    assert short == common
    assert [line["level"] for line in short] == ["info", "warning", "info"]
    assert "0123456789abcdef" not in json.dumps(short)


def test_the_short_road_is_bounded_and_keeps_to_the_level() -> None:
    """A log nobody reads would fill the memory with the lines of streams; lines below the level would be written."""
    slow = Slow()
    with alone():
        logs = Logs(Observe(log_format="json", log_level="warning"), slow, size=10)
        for _ in range(50):
            Lines().info("quiet")
        assert logs.dropped == 0
        for n in range(100):
            Lines().warning("line", n=n)
        assert logs.dropped >= 80
        slow.go.set()
        logs.close()
        Lines().warning("after")  # nobody is there
    assert "quiet" not in slow.getvalue()


def test_a_time_is_that_of_its_second() -> None:
    """The part of a time that is kept for a second would be that of another one."""
    assert _Clock().stamp(0.25) == "1970-01-01T00:00:00.250000Z"
    clock = _Clock()
    assert [clock.stamp(at) for at in (1790000000.5, 1790000001.75)] == [
        "2026-09-21T14:13:20.500000Z",
        "2026-09-21T14:13:21.750000Z",
    ]
