"""A real nginx with deploy/nginx.conf: the shipped file, with a test's ports and folder put in."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.gateway import ROOT
from support.process import free_port, stop, wait_until


@contextmanager
def nginx(folder: Path, *gateways: str) -> Iterator[str]:
    """In front of these gateways (their addresses); yields its own. Its log is `nginx.log` in the folder."""
    port = free_port()
    text = (ROOT / "deploy/nginx.conf").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "server gateway:8080" in line)
    nodes = "\n".join(line.replace("gateway:8080", url.removeprefix("http://")) for url in gateways)
    for shipped, ours in (
        (line, nodes),
        ("listen 8000;", f"listen 127.0.0.1:{port};"),
        ("/tmp/headgate-nginx", f"{folder}/nginx"),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: _listening(port), 10, "nginx listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def _listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
