"""What many concurrent calls and large key rings hold in memory: whole processes.

Each line is a process of its own that prints how much its memory grew while it did the
work again and again: what a long-running program has to hold, and whether it leaks.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.canned import API_KEY, SECRET
from benchmarks.canned_tokens import canned_token_operator
from benchmarks.runner import Effort, Measure, Sample, Table, interleave
from benchmarks.token_calls import EMAIL
from uid2_async import KeyRing, KeyStore, UID2Client

AT_ONCE = 1_000
KEYS = 20_000
ROUNDS = 5


def resident_mb() -> float:
    """Return the memory that this process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def hold_calls(url: str) -> list[float]:
    """Make 1,000 calls at once, round after round."""
    seen = [resident_mb()]
    async with UID2Client(url, api_key=API_KEY, client_secret=SECRET) as client:
        for _ in range(ROUNDS):
            await asyncio.gather(
                *(client.generate_token(EMAIL) for _ in range(AT_ONCE))
            )
            seen.append(resident_mb())
    return seen


async def hold_keys(_: str) -> list[float]:
    """Fetch a ring of 20,000 keys, round after round."""
    reply = _make_reply()

    async def fetch() -> KeyRing:
        return KeyRing.from_json(reply)

    seen = [resident_mb()]
    store = KeyStore(fetch)
    for _ in range(ROUNDS):
        await store.ensure_fresh(0)
        seen.append(resident_mb())
    return seen


def _make_reply() -> bytes:
    """Make a key/bidstream reply."""
    now = int(time.time())
    times = {"created": now - 9, "activates": now - 9, "expires": now + 86_400}
    secret = base64.b64encode(bytes(32)).decode()
    keys = [{"id": number, "secret": secret, **times} for number in range(KEYS)]
    return msgspec.json.encode({"body": {"keys": keys}, "status": "success"})


SUBJECTS = {
    f"{AT_ONCE:,} calls at once": hold_calls,
    f"KeyStore of {KEYS:,} keys": hold_keys,
}


def start(name: str, url: str) -> Measure:
    """Make a measurement of a process that does the work *name*."""

    def measure() -> Sample:
        command = [sys.executable, "-m", "benchmarks.memory", name, url]
        done = subprocess.run(  # noqa: S603 - our own module
            command, check=True, capture_output=True, text=True
        )
        start, first, *_, last = map(float, done.stdout.split())
        return Sample(last - start, {"after the first round": first - start})

    return measure


def run(effort: Effort) -> Iterator[Table]:
    """Measure."""
    with canned_token_operator("") as canned:
        measures = {name: start(name, canned.url) for name in SUBJECTS}
        lines = interleave(measures, rounds=effort.pick(1, 3), warm_up=0)
    yield Table(
        title=f"Memory held after {ROUNDS} rounds",
        unit="MB added",
        baseline=next(iter(SUBJECTS)),
        ours=(),
        lines=lines,
    )


if __name__ == "__main__":
    print(*asyncio.run(SUBJECTS[sys.argv[1]](sys.argv[2])))
