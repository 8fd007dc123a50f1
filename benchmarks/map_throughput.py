"""Identities a second, by how long the operator takes and how much is in flight.

Beside the official SDK, one call after the other and in 20 threads, and beside bare
aiohttp. The operator is canned and runs in a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from uid2_client import IdentityMapV3Client, IdentityMapV3Input

from benchmarks import by_hand
from benchmarks.canned import API_KEY, KEY, SECRET, Canned, canned_operator
from benchmarks.runner import Better, Effort, Measure, Table, interleave
from uid2_async import BulkMapper

BATCH = 5_000
IN_FLIGHT = 20
# How many batches each subject maps in a round, at 0, 50 and 300 ms: enough for some
# seconds where that takes long, so that the first and the last batches weigh little.
BATCHES = {
    "official SDK": (4, 6, 3),
    "official SDK, 20 threads": (8, 12, 20),
    "map_identities, 1 in flight": (20, 20, 3),
    "map_identities, 5 in flight": (20, 50, 25),
    "map_identities, 20 in flight": (40, 120, 160),
    "BulkMapper, 20 in flight": (20, 60, 80),
    "by hand, 20 in flight": (40, 120, 160),
}
OURS = ("map_identities", "BulkMapper")


def emails(batches: int, size: int = BATCH) -> Iterator[list[str]]:
    """Make batches of emails, no two alike."""
    for at in range(0, batches * size, size):
        yield [f"customer.{number}@example.com" for number in range(at, at + size)]


def official(canned: Canned, batches: int, threads: int) -> None:
    """Map with the official SDK."""
    client = IdentityMapV3Client(canned.url, API_KEY, SECRET)

    def map_batch(batch: list[str]) -> int:
        asked = IdentityMapV3Input.from_emails(batch)
        return len(client.generate_identity_map(asked).mapped_identities)

    if threads == 1:
        rows = sum(map(map_batch, emails(batches)))
    else:
        with ThreadPoolExecutor(threads) as pool:
            rows = sum(pool.map(map_batch, emails(batches)))
    assert rows == batches * BATCH


async def ours(canned: Canned, batches: int, in_flight: int) -> None:
    """Map list after list, some at once; the lists are cut from a stream by hand."""
    people = (email for batch in emails(batches) for email in batch)
    rows = 0

    async def map_some() -> None:
        nonlocal rows
        while batch := list(islice(people, BATCH)):
            found = await client.map_identities(batch)
            rows += len(found)

    async with canned.client() as client:
        await asyncio.gather(*(map_some() for _ in range(in_flight)))
    assert rows == batches * BATCH


async def stream(canned: Canned, batches: int, in_flight: int) -> None:
    """Map one email after the other, as streams are mapped."""
    people = (email for batch in emails(batches) for email in batch)
    rows = 0
    async with canned.client() as client:
        mapper = BulkMapper(client, concurrency=in_flight)
        async with mapper.map(people) as records:
            while (step := await records.next_chunk()) is not None:
                rows += len(step)
    assert rows == batches * BATCH


async def bare(canned: Canned, batches: int) -> None:
    """Map by hand."""
    rows = await by_hand.map_all(
        canned.url, emails(batches), api_key=API_KEY, key=KEY, in_flight=IN_FLIGHT
    )
    assert rows == batches * BATCH


def job(canned: Canned, name: str, batches: int) -> Callable[[], None]:
    """Make the job of the subject *name*."""
    if name.startswith("official"):
        return lambda: official(canned, batches, IN_FLIGHT if "threads" in name else 1)
    if name.startswith("by hand"):
        return lambda: asyncio.run(bare(canned, batches))
    how = stream if name.startswith("BulkMapper") else ours
    return lambda: asyncio.run(how(canned, batches, int(name.split()[1])))


def measure(canned: Canned, name: str, batches: int) -> Measure:
    """Make the measurement of a subject."""
    return lambda: canned.rate(job(canned, name, batches), batches * BATCH)


def run(effort: Effort) -> Iterator[Table]:
    """Measure at each service time."""
    for at, milliseconds in enumerate((0, 50, 300)):
        with canned_operator(milliseconds / 1000) as canned:
            # What is loaded once is not measured.
            asyncio.run(ours(canned, 2, 1))
            official(canned, 2, 1)
            measures = {
                name: measure(canned, name, batches[at])
                for name, batches in BATCHES.items()
            }
            yield Table(
                title=f"Map, {milliseconds} ms a request",
                unit="identities/s",
                better=Better.MORE,
                baseline="official SDK",
                ours=tuple(name for name in BATCHES if name.startswith(OURS)),
                lines=interleave(measures, rounds=effort.pick(1, 3), warm_up=0),
            )
