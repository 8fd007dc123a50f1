"""Nothing is left behind, however often: in processes of their own, to be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAD = """
import asyncio, gc, json, os, sys
from canaries import API_KEY, CLIENT_SECRET
from fault_server import FaultServer, ok, silence
from uid2_async import UID2Client

kept = []
leak = False

def make(server):
    return UID2Client(server.url, api_key=API_KEY, client_secret=CLIENT_SECRET)

def measure():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGESIZE") // 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "tasks": len(asyncio.all_tasks()),
    }

async def grow(server, count):
    before = measure()
    await work(server, count)
    for _ in range(100):
        if not server.open:
            break
        await asyncio.sleep(0.02)
    after = measure()
    return {name: after[name] - before[name] for name in after}

async def main():
    global leak
    async with FaultServer(STEP) as server:
        await work(server, WARM)
        found = {"clean": await grow(server, COUNT)}
        leak = True
        found["leaking"] = await grow(server, COUNT // 10)
    print(json.dumps(found))
"""

CYCLES = """
STEP, WARM, COUNT = ok, 200, 1_000

async def work(server, count):
    for _ in range(count):
        client = make(server)
        await client.generate_token("somebody@example.com")
        if leak:
            kept.append(client)
        else:
            await client.aclose()
        server.requests.clear()
        server.received.clear()
"""

CANCELLED = """
STEP, WARM, COUNT = silence, 20, 100

async def work(server, count):
    async with make(server) as client:
        for _ in range(count):
            calls = [asyncio.create_task(client.generate_token("a@example.com"))
                     for _ in range(100)]
            await asyncio.sleep(0.01)
            for one in calls:
                one.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            if leak:
                kept.append([asyncio.create_task(asyncio.sleep(60)) for _ in calls])
            assert all(isinstance(one, asyncio.CancelledError) for one in done)
            server.requests.clear()
            server.received.clear()
        pool = client._transport
        assert pool._running.total() == 0
        assert not pool._pooled.connector._acquired
        assert not pool._pooled.connector._waiters
"""


def measure(script: str) -> dict[str, dict[str, int]]:
    """Run a script; return by how much its process has grown, and if it leaks."""
    done = subprocess.run(  # noqa: S603 - our own code
        [
            *(sys.executable, "-W", "ignore", "-c"),
            f"{HEAD}{script}\nasyncio.run(main())",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", [CYCLES, CANCELLED], ids=["cycles", "cancelled"])
def test_nothing_is_left_behind(script: str) -> None:
    """1,000 clients, or 10,000 cancelled calls: below 4 MB, and no descriptor.

    What a tenth of them leaves on purpose after that shows in the same figures.
    """
    found = measure(script)

    grown = found["clean"]
    assert grown["memory"] < 4_096, grown
    assert grown["files"] == 0, grown
    assert grown["tasks"] == 0, grown
    assert grown["objects"] < 2_000, grown
    leaked = found["leaking"]
    assert leaked["files"] + leaked["tasks"] >= 100, leaked
    assert leaked["objects"] > 2_000, leaked
