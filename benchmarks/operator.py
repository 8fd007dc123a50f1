"""How much the embedded operator answers, in a process of its own.

It is asked by hand, so that whoever asks is not the limit: ``operator %`` says how much
of the CPU was the operator's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import aiohttp
import attrs
import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import by_hand
from benchmarks.canned import API_KEY, SECRET, canned_operator, rate
from benchmarks.map_throughput import BATCH, emails
from benchmarks.runner import Better, Effort, Measure, Table, interleave


@attrs.frozen
class Sandbox:
    """A running embedded operator.

    Attributes:
        url: Its base URL.
        api_key: The key of the sample world that may do everything.
        secret: Its client secret, in base64.
        pid: Its process.
    """

    url: str
    api_key: str
    secret: str
    pid: int


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """Run ``uid2 sandbox``."""
    command = [sys.executable, "-m", "uid2_async", "sandbox"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            line = next(one for one in lines if "UID2-C-L-105" in one)
            url, key, secret = (word.partition("=")[2] for word in line.split()[1:4])
            yield Sandbox(url, key, secret, process.pid)
        finally:
            process.terminate()


async def map_all(operator: Sandbox, batches: int, size: int, in_flight: int) -> None:
    """Map batches of *size* identities."""
    rows = await by_hand.map_all(
        operator.url,
        emails(batches, size),
        api_key=operator.api_key,
        key=base64.b64decode(operator.secret),
        in_flight=in_flight,
    )
    assert rows == batches * size


async def generate_all(operator: Sandbox, calls: int) -> None:
    """Generate tokens, 20 at once."""
    key = base64.b64decode(operator.secret)
    headers = {"Authorization": f"Bearer {operator.api_key}"}
    hashed = by_hand.hash_email("user@example.com")
    payload = msgspec.json.encode({"email_hash": hashed, "optout_check": 1})
    work = repeat(None, calls)
    answers = 0

    async def ask() -> None:
        nonlocal answers
        for _ in work:
            sealed = base64.b64encode(by_hand.envelope(payload, key, os.urandom(8)))
            async with session.post("/v2/token/generate", data=sealed) as reply:
                body = base64.b64decode(await reply.read())
                opened = AESGCM(key).decrypt(body[:12], body[12:], None)
                answers += b"advertising_token" in opened

    async with aiohttp.ClientSession(operator.url, headers=headers) as session:
        await asyncio.gather(*(ask() for _ in range(20)))
    assert answers == calls


def maps(operator: Sandbox, batches: int, size: int, in_flight: int) -> Measure:
    """Make a measurement of maps, in identities a second."""
    return lambda: rate(
        lambda: asyncio.run(map_all(operator, batches, size, in_flight)),
        batches * size,
        operator.pid,
    )


def run(effort: Effort) -> Iterator[Table]:
    """Measure large requests, then small ones."""
    batches, calls = effort.pick(10, 20), effort.pick(500, 1_500)
    rounds = effort.pick(2, 3)
    with sandbox() as embedded, canned_operator() as echo:
        canned = Sandbox(echo.url, API_KEY, SECRET, echo.pid)
        yield Table(
            title="Maps of 5,000",
            unit="identities/s",
            better=Better.MORE,
            baseline="canned",
            ours=("embedded operator",),
            lines=interleave(
                {
                    "canned": maps(canned, batches, BATCH, 4),
                    "embedded operator": maps(embedded, batches, BATCH, 4),
                },
                rounds=rounds,
            ),
        )
        yield Table(
            title="Small requests, 20 at once",
            unit="requests/s",
            better=Better.MORE,
            baseline="canned, map of one",
            ours=("map of one", "token/generate"),
            lines=interleave(
                {
                    "canned, map of one": maps(canned, calls, 1, 20),
                    "map of one": maps(embedded, calls, 1, 20),
                    "token/generate": lambda: rate(
                        lambda: asyncio.run(generate_all(embedded, calls)),
                        calls,
                        embedded.pid,
                    ),
                },
                rounds=rounds,
            ),
        )
