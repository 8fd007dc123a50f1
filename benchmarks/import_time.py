"""What importing the client costs, beside aiohttp alone: whole processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.runner import interleave, report

STATEMENTS = (
    "import aiohttp",
    "from uid2_async import UID2Client",
    "import uid2_async.protocol",
    "pass",
)


def start(statement: str) -> Callable[[], float]:
    """Make a measurement of a Python that runs *statement*, in seconds."""

    def measure() -> float:
        began = time.perf_counter()
        # Isolated: what is installed counts, and not the folder that this runs in.
        command = [sys.executable, "-I", "-c", statement]
        subprocess.run(command, check=True)  # noqa: S603 - fixed statements
        return time.perf_counter() - began

    return measure


def run() -> None:
    """Measure; the client is to cost at most 1.2 times aiohttp."""
    costs = interleave({text: start(text) for text in STATEMENTS}, rounds=15)
    report("Import", costs, baseline="import aiohttp", unit="ms", scale=1000)
