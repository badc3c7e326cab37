"""What is shipped: the wheel has our three packages and nothing that belongs to the repository only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "backends", "config")


def _files_below(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (folder / name).rglob(pattern)}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The file names in a wheel built from a copy: a build folder here would leak old files into it."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    for name in (*PACKAGES, "tests", "bench", "docs", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    built = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(work), str(source)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = work.glob("headgate-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_exactly_our_packages_are_shipped(shipped: set[str]) -> None:
    """Installing Headgate would put somebody's `tests` or `bench` on the import path, or lack a package."""
    top = {name.split("/")[0] for name in shipped}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_every_module_and_data_file_is_shipped(shipped: set[str]) -> None:
    """An installed gateway would lack a module, a Redis script or the page, which an editable install never shows."""
    for pattern in ("*.py", "*.lua", "page/*.*", "client/*.*", "py.typed"):
        wanted = _files_below(ROOT, pattern)
        assert wanted, pattern
        assert wanted <= shipped, sorted(wanted - shipped)
