"""What the machine says of this process: memory and processor. Reads the kernel's own files; never waits.

Law: a machine that does not tell is no reason to fail: each figure has a portable second source.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import Any


def memory_used() -> int:
    """Resident bytes of this process (where /proc is missing: its peak)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_limit() -> int:
    """Bytes this process may use: its control group's limit (version 2), else the machine's memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": the machine is the limit
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return total


def processor() -> dict[str, Any]:
    """Number of processors, the load averages and the processor seconds this process has used."""
    times = os.times()
    return {
        "count": os.cpu_count(),
        "loadAverage": [round(x, 2) for x in os.getloadavg()],
        "processSeconds": round(times.user + times.system, 2),
    }
