"""Jobs with a ledger: it is asked first, and learns every answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from uid2_async.bulk.feed import ItemFeed
from uid2_async.bulk.job import JobOptions, MapJob
from uid2_async.bulk.records import MapFailure
from uid2_async.models import Email, MapRow, Phone, PhoneHash
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes


class Book:
    """A ledger in memory.

    Attributes:
        rows: What it knows.
        asked: How many identities it was asked about.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self.rows: dict[tuple[str, bytes], MapRow] = {}
        self.asked = 0

    async def look_up(
        self, subject: str, identities: Sequence[bytes]
    ) -> list[MapRow | None]:
        """Take a while."""
        self.asked += len(identities)
        await asyncio.sleep(0.01)
        return [self.rows.get((subject, one)) for one in identities]

    async def record(
        self,
        subjects: Sequence[str],
        identities: Sequence[bytes],
        rows: Sequence[MapRow],
    ) -> list[MapRow]:
        """Mark what has been recorded, so that it can be told from what was sent."""
        await asyncio.sleep(0.01)
        kept = [MapRow(u=row.u, e=row.e, p="recorded") for row in rows]
        self.rows |= dict(
            zip(zip(subjects, identities, strict=True), kept, strict=True)
        )
        return kept


async def run(
    operator: Any, items: Sequence[Any], book: Book, **more: Any
) -> list[Any]:
    """Map *items* with a ledger; give the outcomes."""
    options = JobOptions(
        client=operator.client(),
        **{
            "batch_size": 10,
            "concurrency": 20,
            "dedupe_window": 20,
            "stall_timeout": 120.0,
            "sleep": asyncio.sleep,
            "random": random.Random(1).random,  # noqa: S311 - jitter
            **more,
        },
    )
    job = MapJob(options, ItemFeed(items, None), ledger=book)
    job.start()
    outcomes: list[Any] = []
    try:
        while (block := await job.next_block()) is not None:
            outcomes += block.outcomes()
    finally:
        await job.stop()
    return outcomes


def test_what_is_recorded_is_what_comes_out(virtual: Any, make_operator: Any) -> None:
    """A row looks the same whether the operator or the ledger answered it."""
    items = [f"person{number}@example.com" for number in range(95)]
    operator, book = make_operator(), Book()

    first = virtual(run(operator, items, book))
    requests = operator.requests
    second = virtual(run(operator, items, book))

    assert first == second
    assert {row.p for row in first} == {"recorded"}
    assert (requests, operator.requests) == (10, 10)


def test_each_identity_is_asked_about_once_in_the_whole_job(
    virtual: Any, make_operator: Any
) -> None:
    """Far beyond the window, and while its first request is still on its way."""
    people = [f"person{number}@example.com" for number in range(2_000)]
    items = [*people, *reversed(people), *people[::7]]
    operator, book = make_operator(), Book()

    outcomes = virtual(run(operator, items, book))

    assert len(outcomes) == len(items)
    assert len(operator.seen) == len(set(operator.seen)) == 2_000
    assert outcomes[:2_000] == list(reversed(outcomes[2_000:4_000]))


def test_the_kinds_of_one_subject_are_one_identity(
    virtual: Any, make_operator: Any
) -> None:
    """A phone and its hash are the same; an e-mail hash with its bytes is not."""
    data = identity_bytes("phone", "+12345678901")
    assert data is not None
    hashed = base64.encode_text(data)
    operator, book = make_operator(), Book()
    items = [Phone("+12345678901"), PhoneHash(hashed), Email("a@example.com")]

    virtual(run(operator, items, book))

    assert {subject for subject, _ in book.rows} == {"phone", "email"}
    assert (("phone", data)) in book.rows
    assert len(operator.seen) == 2


def test_failures_are_not_recorded(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """What could not be asked about is asked about next time."""
    operator, book = make_operator(lambda _: refuse(400)), Book()

    (outcome,) = virtual(run(operator, ["a@example.com"], book))

    assert outcome == MapFailure(error="BadRequestError", status=400)
    assert book.rows == {}


def test_a_ledger_that_fails_ends_the_job(virtual: Any, make_operator: Any) -> None:
    """A full disk is not passed over in silence."""

    class Full(Book):
        async def record(self, *_: Any) -> list[MapRow]:
            raise OSError("disk full")

    async def main() -> str:
        try:
            await run(make_operator(), ["a@example.com"], Full())
        except OSError as error:
            return str(error)
        return ""

    assert virtual(main()) == "disk full"


def test_known_rows_fill_no_requests(virtual: Any, make_operator: Any) -> None:
    """A daily run in which little is due sends little."""
    people = [f"person{number}@example.com" for number in range(5_000)]
    operator, book = make_operator(), Book()
    virtual(run(operator, people, book, batch_size=100))
    sent = operator.requests
    for key in list(book.rows)[::100]:
        del book.rows[key]

    virtual(run(operator, people, book, batch_size=100))

    assert operator.requests - sent <= 4
