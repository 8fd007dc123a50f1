"""What importing the client costs, beside aiohttp alone: whole processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uid2_async
from benchmarks.runner import Effort, Table, interleave

PLACE = str(Path(uid2_async.__file__).parents[1])

STATEMENTS = {
    "aiohttp": "import aiohttp",
    "UID2Client": "from uid2_async import UID2Client",
    "uid2_async.protocol": "import uid2_async.protocol",
    "nothing": "pass",
}


def start(statement: str) -> Callable[[], float]:
    """Make a measurement of a Python that runs *statement*: its CPU, in ms."""

    def measure() -> float:
        began = _children_cpu()
        # Isolated: nothing else of the folder that this runs in is found.
        found = f"import sys; sys.path.insert(0, {PLACE!r}); {statement}"
        command = [sys.executable, "-I", "-c", found]
        subprocess.run(command, check=True)  # noqa: S603 - fixed statements
        return (_children_cpu() - began) * 1000

    return measure


def _children_cpu() -> float:
    """Read the CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(effort: Effort) -> Iterator[Table]:
    """Measure."""
    measures = {name: start(statement) for name, statement in STATEMENTS.items()}
    yield Table(
        title="Import",
        unit="ms of CPU",
        baseline="aiohttp",
        ours=("UID2Client", "uid2_async.protocol"),
        lines=interleave(measures, rounds=effort.pick(7, 11)),
    )
