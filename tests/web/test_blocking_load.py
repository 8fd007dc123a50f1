"""BlockingClient under load: 100 threads, a fork, the end, and what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from uid2_async.operator import Fault, LocalOperator

pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc"),  # noqa: PTH112 - not on Windows
    pytest.mark.timeout(300),
]

PROGRAM = """
import asyncio, gc, json, logging, os, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
from uid2_async import BlockingClient, IdentityTokens, errors

logging.disable()
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
THREADS = CALLS = 100


def state():
    gc.collect()
    loops = [one for one in gc.get_objects() if isinstance(one, asyncio.BaseEventLoop)]
    return {
        "threads": threading.active_count(),
        "loops": sum(not one.is_closed() for one in loops),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def call(number):
    return isinstance(uid2.generate_token(f"{number}@example.com"), IdentityTokens)


def work(thread):
    if thread == THREADS // 2:
        half.wait()  # the fork is in the middle
    return sum(call(f"{thread}-{number}") for number in range(CALLS))


def be_child():
    before = state()  # what the parent had open is here, and not ours
    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(call, range(100)))
    uid2.close()
    after = state()
    assert after["threads"] == 1
    assert after["descriptors"] <= before["descriptors"], (before, after)


def hang(_):
    started.release()
    try:
        uid2.map_identities(["user@example.com"], timeout=120)
    except errors.ClientClosedError:
        return True


before = state()
uid2 = BlockingClient.from_env()
half = threading.Event()
with ThreadPoolExecutor(THREADS) as pool:
    counts = pool.map(work, range(THREADS))
    assert call("first")
    pid = os.fork()
    if pid == 0:
        try:
            be_child()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    half.set()
    good = sum(counts)
_, status = os.waitpid(pid, 0)

started = threading.Semaphore(0)
with ThreadPoolExecutor(THREADS) as pool:
    ends = pool.map(hang, range(THREADS))
    for _ in range(THREADS):
        started.acquire()
    uid2.close()
    closed = sum(map(bool, ends))
after = state()
print(json.dumps([good, os.waitstatus_to_exitcode(status), closed, before == after]))
print(before, after, file=sys.stderr) if before != after else None
"""


def test_a_hundred_threads() -> None:
    """10,000 calls with a fork in the middle; closing ends 100 calls under way.

    After that there are no more threads, event loops and sockets than before.
    """
    with LocalOperator.in_thread() as operator:
        operator.fail_next(Fault(delay=120.0), times=200, path="/v3/identity/map")
        env = {
            "UID2_BASE_URL": operator.url,
            "UID2_API_KEY": operator.api_key,
            "UID2_SECRET_KEY": operator.client_secret,
        }
        done = subprocess.run(  # noqa: S603 - the program above
            [sys.executable, "-W", "error", "-c", PROGRAM],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.stderr == ""
    assert json.loads(done.stdout) == [10_000, 0, 100, True]
