"""The read side of the published Durable Streams conformance suite against the gateway's façade: `make conformance`.

The suite (a package of npm, its version pinned here) is installed under `.clients/`, which is not kept. It seeds every
test by writing, so it runs against `support.durable_writes`: the gateway's reads, writes for tests only. The tests that
must pass are listed in `read_side.txt`; all others are about writing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".clients" / "conformance"
PACKAGE = "@durable-streams/server-conformance-tests"
VERSION = "0.3.6"
RUNNER = f"node_modules/{PACKAGE}/dist/test-runner.js"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.process import free_port, stop, wait_until  # noqa: E402 - the path is set above


def wanted() -> list[str]:
    """Full names of the tests about reading."""
    return (HERE / "read_side.txt").read_text("utf-8").splitlines()


def installed() -> bool:
    """Whether the suite, in this version, is there to be run."""
    file = FOLDER / "node_modules" / PACKAGE / "package.json"
    return file.exists() and json.loads(file.read_text("utf-8"))["version"] == VERSION


def install() -> None:
    """Fetch the suite with npm. Raises SystemExit where that cannot be."""
    if not shutil.which("npm"):
        raise SystemExit("the suite needs Node and npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(
        json.dumps({"private": True, "dependencies": {PACKAGE: VERSION}}), encoding="utf-8"
    )
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=FOLDER, timeout=300)
    if done.returncode or not installed():
        raise SystemExit(f"{PACKAGE}@{VERSION} could not be installed")


def results(url: str) -> dict[str, str]:
    """Full name -> `passed`, `failed` or `skipped`, of every test of the suite; only those of reading are run."""
    report = FOLDER / "report.json"
    config = {"test": {"include": [RUNNER], "exclude": []}}
    (FOLDER / "vitest.config.mjs").write_text(f"export default {json.dumps(config)};\n", encoding="utf-8")
    names = "|".join(re.escape(name) for name in wanted())
    command = ["npx", "vitest", "run", "--reporter=json", f"--outputFile={report}", "-t", f"^\\s*(?:{names})$"]
    environment = {**os.environ, "CONFORMANCE_TEST_URL": url}
    subprocess.run(command, cwd=FOLDER, env=environment, timeout=300, stdout=subprocess.DEVNULL)
    told: dict[str, Any] = json.loads(report.read_text("utf-8"))
    tests = [test for file in told["testResults"] for test in file["assertionResults"]]
    for test in tests:
        if test["status"] == "failed":
            print(f"FAILED {test['fullName'].strip()}\n    {test['failureMessages'][0][:500]}")
    return {test["fullName"].strip(): test["status"] for test in tests}


def run() -> tuple[int, int, int]:
    """(passed, wanted, skipped as writing) of one run against a server of its own."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "support.durable_writes", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        wait_until(lambda: _answers(port), 20, "the server of the suite answers")
        found = results(f"http://127.0.0.1:{port}")
    finally:
        stop(server)
    names = wanted()
    return sum(found.get(name) == "passed" for name in names), len(names), len(found) - len(names)


def _answers(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if not installed():
        install()
    passed, count, skipped = run()
    print(
        f"Durable Streams {VERSION}: {passed} of {count} read-side tests passed; {skipped} about writing were not run"
    )
    raise SystemExit(0 if passed == count else 1)
