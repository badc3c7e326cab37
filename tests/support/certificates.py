"""A certificate authority for one test run, made by the `openssl` program: servers that are right, expired or old."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest


class Authority:
    """`ca_file` is what a client trusts; `server` makes a server's TLS settings. Skips where openssl is missing."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl program is not on this machine")
        self._folder = folder
        self._key, self.ca_file = folder / f"{name}.key", folder / f"{name}.pem"
        self._key_pair("-x509", "-days", "2", "-subj", f"/CN=test {name}", key=self._key, out=self.ca_file)

    def server(self, host: str = "127.0.0.1", *, expired: bool = False, tls: str = "") -> ssl.SSLContext:
        """Of a server at `host` (an address); its certificate ran out two years ago, or not."""
        key, request, signed, more = (self._folder / f"server.{end}" for end in ("key", "csr", "pem", "ext"))
        self._key_pair("-subj", f"/CN={host}", key=key, out=request)
        more.write_text(f"subjectAltName=IP:{host}\n", encoding="ascii")
        span = ("-not_before", "20230101000000Z", "-not_after", "20240101000000Z") if expired else ("-days", "2")
        index, serial, settings = (self._folder / name for name in ("index.txt", "serial", "ca.cnf"))
        index.write_text("", encoding="ascii")
        serial.write_text("01\n", encoding="ascii")
        settings.write_text(_SETTINGS.format(index=index, serial=serial, folder=self._folder), encoding="ascii")
        dates = ("-startdate", span[1], "-enddate", span[3]) if expired else span
        _openssl(
            "ca", "-batch", "-notext", "-config", str(settings), "-in", str(request), "-out", str(signed),
            "-cert", str(self.ca_file), "-keyfile", str(self._key), "-extfile", str(more), *dates,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed, key)
        if tls == "1.1":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    @staticmethod
    def _key_pair(*more: str, key: Path, out: Path) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl("req", "-new", *curve, "-keyout", str(key), "-out", str(out), *more)


_SETTINGS = """[ca]
default_ca = own
[own]
database = {index}
serial = {serial}
new_certs_dir = {folder}
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True, timeout=20)
