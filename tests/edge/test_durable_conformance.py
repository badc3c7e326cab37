"""The published Durable Streams conformance suite, its read side, under a real Node."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

_FILE = Path(__file__).resolve().parents[1] / "conformance" / "run.py"
_SPEC = importlib.util.spec_from_file_location("durable_conformance", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
suite = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(suite)

pytestmark = [
    pytest.mark.edge,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("npx"), reason="needs Node"),
    pytest.mark.skipif(not suite.installed(), reason="the suite is not installed: make conformance"),
]


def test_the_read_side_of_the_suite_passes() -> None:
    """Clients of the protocol, in ten languages, would not read our streams as they read others."""
    assert suite.run()[:2] == (112, 112)
