"""Dispatcher: chunks in, kept and answered chunks out, whatever endpoint is asked."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from uid2_async import UID2Client, errors
from uid2_async.bulk.batches import Batch, Chunk, IdentityColumn
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.options import JobOptions
from uid2_async.bulk.outcomes import (
    ABSENT,
    INVALID,
    INVALID_PHONES,
    MAP_V2,
    OPTOUT_STATUS,
    UNKNOWN_KIND,
    MapFailure,
)
from uid2_async.bulk.private_files import System
from uid2_async.phones import PhoneFault
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes

PHONE = "+12345678901"


class Chunks:
    """A source of chunks that are there at once.

    Attributes:
        left: Those that were not taken.
    """

    def __init__(self, *chunks: Sequence[IdentityColumn]) -> None:
        """Give the columns of each chunk."""
        self.left = [
            Chunk(index, len(columns[0]), columns)
            for index, columns in enumerate(chunks)
        ]

    def take(self, *, partial: bool) -> Chunk | None:
        """Take the next one."""
        return self.left.pop(0) if self.left else None

    async def load(self) -> bool:
        """There is no more."""
        return False


class Book:
    """What was kept.

    Attributes:
        outcomes: By subject and identity.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.outcomes: dict[tuple[str, bytes], Any] = {}

    async def keep(
        self, subject: str, identities: Sequence[bytes], outcomes: Sequence[Any]
    ) -> None:
        """Take a while."""
        await asyncio.sleep(0.01)
        for identity, outcome in zip(identities, outcomes, strict=True):
            assert (subject, identity) not in self.outcomes
            self.outcomes[subject, identity] = outcome


def make(operator: Any, source: Any, *, options: Any = None, **more: Any) -> Dispatcher:
    """Make a dispatcher of small batches."""
    settings = {
        "batch_size": 10,
        "concurrency": 20,
        "dedupe_window": 1_000,
        "stall_timeout": 120.0,
        **(options or {}),
    }
    client = settings.pop("client", None) or operator.client()
    system = System(
        sleep=settings.pop("sleep", asyncio.sleep),
        random=random.Random(1).random,  # noqa: S311 - jitter
    )
    return Dispatcher(client, source, JobOptions(**settings), system, **more)


async def run(operator: Any, source: Any, **more: Any) -> list[list[Any]]:
    """Return the outcomes of all columns of all chunks."""
    async with make(operator, source, **more) as dispatcher:
        chunks = [chunk.outcomes() async for chunk in dispatcher.chunks()]
    return [column for columns in chunks for column in columns]


def emails(count: int) -> list[str]:
    """Make some email addresses."""
    return [f"person{number}@example.com" for number in range(count)]


def hashes(texts: Sequence[str], kind: str = "email") -> list[bytes]:
    """Return the identity bytes of valid DII."""
    found = [identity_bytes(kind, text) for text in texts]
    return [one for one in found if one is not None]


def test_outcomes_are_kept_before_they_are_handed_out(
    virtual: Any, make_operator: Any
) -> None:
    """Also if a batch holds several subjects; each identity is kept once."""
    book, people = Book(), emails(95)
    columns = [
        IdentityColumn("email", people),
        IdentityColumn("phone", [f"+1234567{number:04}" for number in range(95)]),
    ]

    async def main() -> None:
        source = Chunks(columns, columns)
        async with make(make_operator(), source, keep=book.keep) as dispatcher:
            async for chunk in dispatcher.chunks():
                found, phones = chunk.outcomes()
                for identity, outcome in zip(hashes(people), found, strict=True):
                    assert book.outcomes["email", identity] is outcome
                assert {one.reason for one in phones} == {None}

    virtual(main())

    assert len(book.outcomes) == 190


@pytest.mark.parametrize("keep", [True, False])
def test_workers_that_wait_hold_no_batch(
    virtual: Any, make_operator: Any, *, keep: bool
) -> None:
    """A batch and its outcomes are freed once they are answered."""

    async def main() -> list[Batch]:
        source = Chunks(*([IdentityColumn("email", [one])] for one in emails(95)))
        more = {"keep": Book().keep} if keep else {}
        options = {"dedupe_window": 1}
        async with make(make_operator(), source, options=options, **more) as dispatcher:
            async for _ in dispatcher.chunks():
                pass
            gc.collect()
            return [one for one in gc.get_objects() if isinstance(one, Batch)]

    assert virtual(main()) == []


def test_failures_are_kept_too(virtual: Any, make_operator: Any, refuse: Any) -> None:
    """The owner of the outcomes decides what a failure means."""
    book = Book()
    source = Chunks([IdentityColumn("email", emails(25))])
    outcomes = virtual(
        run(make_operator(lambda _: refuse(400)), source, keep=book.keep)
    )

    failure = MapFailure(error="BadRequestError", status=400)
    assert outcomes == [[failure] * 25]
    assert list(book.outcomes.values()) == [failure] * 25


def test_a_keep_that_fails_ends_the_job(virtual: Any, make_operator: Any) -> None:
    """A full disk is not ignored."""

    async def full(*_: object) -> None:
        raise OSError("disk full")

    source = Chunks([IdentityColumn("email", emails(25))])
    with pytest.raises(OSError, match="disk full"):
        virtual(run(make_operator(), source, keep=full))


def test_a_slow_keep_does_not_slow_down_requests(
    virtual: Any, make_operator: Any
) -> None:
    """While outcomes are kept, others are sent: as many at once as are allowed."""

    async def keep(*_: object) -> None:
        await asyncio.sleep(0.4)

    async def main() -> float:
        source = Chunks(*([IdentityColumn("email", [one])] for one in emails(4_000)))
        await run(make_operator(), source, keep=keep)
        return asyncio.get_running_loop().time()

    # 400 batches of 0.2 to 0.6 s, 20 at once, and the slow start.
    assert virtual(main()) <= 11.5


def test_kinds_of_one_subject_are_one_identity(
    virtual: Any, make_operator: Any
) -> None:
    """A phone and its hash are the same; an email hash of the same bytes is not."""
    (data,) = hashes([PHONE], "phone")
    hashed = base64.encode_text(data)
    kinds = ["phone", "phone_hash", "email_hash", "fax"]
    values = [PHONE, hashed, hashed, PHONE]
    operator, book = make_operator(), Book()

    (found,) = virtual(
        run(operator, Chunks([IdentityColumn(kinds, values)]), keep=book.keep)
    )

    assert set(book.outcomes) == {("phone", data), ("email", data)}
    assert found[0] is found[1]
    assert found[2].mapped
    assert found[3] is UNKNOWN_KIND
    assert len(operator.seen) == 2


def test_special_rows_are_not_sent(virtual: Any, make_operator: Any) -> None:
    """Absent, invalid and faulty ones have outcomes of their own, at their rows."""
    fault = PhoneFault.TOO_SHORT
    values = [None, PHONE, "+1", None, "+12345678902", "+12345678903"]
    column = IdentityColumn("phone", values, {5: fault})
    operator = make_operator()

    (found,) = virtual(run(operator, Chunks([column])))

    assert found[0] is found[3] is ABSENT
    assert found[2] is INVALID
    assert found[5] is INVALID_PHONES[fault]
    assert found[1].mapped
    assert found[4].mapped
    assert len(operator.seen) == 2


@pytest.mark.parametrize("send_raw", [False, True])
@pytest.mark.parametrize("kind", ["email", "email_hash"])
def test_identities_that_are_known_are_not_computed_again(
    virtual: Any, make_operator: Any, kind: str, send_raw: bool
) -> None:
    """They are sent as hashes, since there is nothing else to send."""
    identities = hashes(emails(30))
    operator = make_operator()
    client = operator.client(send_raw=send_raw)
    column = IdentityColumn(kind, identities=[*identities, None])

    (found,) = virtual(run(operator, Chunks([column]), options={"client": client}))

    assert operator.seen == base64.encode_texts(identities)
    assert [one.mapped for one in found] == [True] * 30 + [False]
    assert found[30] is INVALID


def test_raw_dii_and_hashes_share_a_job(virtual: Any, make_operator: Any) -> None:
    """With send_raw, what JSON cannot carry and what is only known hashed is hashed."""
    people = ["user@example.com", "\ud800@example.com", "other@example.com"]
    known = hashes(["third@example.com"])
    columns = [
        IdentityColumn("email", people),
        IdentityColumn("email_hash", identities=known * 3),
    ]
    operator = make_operator()
    client = operator.client(send_raw=True)

    found = virtual(run(operator, Chunks(columns), options={"client": client}))

    hashed = base64.encode_texts([hashes(people)[1], *known])
    assert sorted(operator.seen) == sorted([people[0], people[2], *hashed])
    assert all(one.mapped for outcomes in found for one in outcomes)


@pytest.mark.parametrize("spread", [1, 7, 100])
def test_duplicates_anywhere_get_the_first_answer(
    virtual: Any, make_operator: Any, refuse: Any, spread: int
) -> None:
    """In one column, between columns and chunks, in flight and answered, and split."""
    dice = random.Random(spread)  # noqa: S311 - data
    people = emails(60)
    chunks = [
        [IdentityColumn("email", dice.choices(people[: spread * 9], k=40))] * 2
        for _ in range(40)
    ]
    respond = lambda texts: refuse(413) if len(texts) > 3 else None  # noqa: E731 - one line says it
    operator = make_operator(respond)

    found = virtual(run(operator, Chunks(*chunks)))

    asked = [
        one for columns in chunks for column in columns for one in column.values or ()
    ]
    uids = [row.raw_uid for rows in found for row in rows]
    assert len(set(uids)) == len(set(asked)) == len(set(zip(asked, uids, strict=True)))
    assert len(operator.seen) == len(set(operator.seen)) == len(set(asked))


async def test_status_and_v2_over_sockets(client: UID2Client) -> None:
    """Both endpoints answer through the same engine as v3; v2 gets one kind at once."""
    people = [*emails(20), "optout@example.com"]
    phones = IdentityColumn("phone", [f"+1234567{number:04}" for number in range(21)])
    mapped, _ = await run(
        None,
        Chunks([IdentityColumn("email", people), phones]),
        endpoint=MAP_V2,
        options={"client": client},
    )
    uids = [one.raw_uid for one in mapped[:20]]
    assert None not in [one.bucket_id for one in mapped[:20]]
    assert mapped[20].reason == "optout"

    (status,) = await run(
        None,
        Chunks([IdentityColumn("raw_uid", [*uids, uids[0], "no raw UID"])]),
        endpoint=OPTOUT_STATUS,
        options={"client": client},
    )
    assert [one.raw_uid for one in status[:21]] == [*uids, uids[0]]
    assert status[21] is INVALID


def test_half_of_the_window_is_always_remembered(
    virtual: Any, make_operator: Any
) -> None:
    """Whatever was met within it is not asked about again; much older ones are."""
    people = emails(400)
    chunks = [
        [
            IdentityColumn(
                "email", [*people[at : at + 10], *people[max(0, at - 40) : at]]
            )
        ]
        for at in range(0, 400, 10)
    ]
    operator = make_operator()
    once = run(operator, Chunks(*chunks), options={"dedupe_window": 100})
    assert len(virtual(once)) == 40
    assert len(operator.seen) == len(set(operator.seen)) == 400

    operator = make_operator()
    twice = run(operator, Chunks(*chunks, chunks[0]), options={"dedupe_window": 100})
    assert len(virtual(twice)) == 41
    assert len(operator.seen) == 410


KINDS = ["email", "email_hash", "phone", "phone_hash", "fax"]


def any_column(dice: random.Random, rows: int) -> IdentityColumn:
    """Make a column of one kind or several, with duplicates, absent and bad values."""
    kinds = [dice.choice(KINDS)] * rows
    if dice.random() < 0.5:
        kinds = dice.choices(KINDS, k=rows)
    values: list[str | None] = []
    for kind in kinds:
        number = dice.randrange(100)
        subject = "phone" if kind in {"phone", "fax"} else "email"
        text = f"+1234567{number:04}" if subject == "phone" else f"{number}@example.com"
        if kind.endswith("_hash"):
            data = identity_bytes(subject, text)
            assert data is not None
            text = base64.encode_text(data)
        values.append(dice.choice([text] * 9 + ["", "bad", None]))
    faults = {}
    if dice.random() < 0.3:
        faults = dict.fromkeys(dice.sample(range(rows), rows // 5), PhoneFault.TOO_LONG)
    return IdentityColumn(kinds[0] if len(set(kinds)) == 1 else kinds, values, faults)


def expected(column: IdentityColumn, row: int, uid_of: Any) -> Any:
    """Say the raw UID of a row, or the outcome itself."""
    assert column.values is not None
    kind = column.kinds if isinstance(column.kinds, str) else column.kinds[row]
    value = column.values[row]
    if row in column.faults:
        return INVALID_PHONES[column.faults[row]]
    if value is None:
        return ABSENT
    if kind == "fax":
        return UNKNOWN_KIND
    data = identity_bytes(kind, value)
    return INVALID if data is None else uid_of(base64.encode_text(data))


@pytest.mark.parametrize("seed", range(30))
def test_any_rows_get_their_own_outcomes(
    virtual: Any, make_operator: Any, refuse: Any, uid_of: Any, seed: int
) -> None:
    """Whatever the rows, windows and batches, and with failures and refusals."""
    dice = random.Random(seed)  # noqa: S311 - data
    rows = dice.choice([1, 7, 60])
    chunks = [
        [any_column(dice, rows) for _ in range(dice.choice([1, 3]))] for _ in range(30)
    ]
    options = {
        "batch_size": dice.choice([1, 10, 500]),
        "dedupe_window": dice.choice([1, 20, 10_000]),
        "concurrency": dice.choice([1, 4, 20]),
    }

    def respond(texts: list[str]) -> Any:
        if len(texts) > 8 and dice.random() < 0.5:
            return refuse(413)
        return refuse(503) if dice.random() < 0.1 else None

    found = virtual(run(make_operator(respond), Chunks(*chunks), options=options))

    columns = [column for chunk in chunks for column in chunk]
    for column, outcomes in zip(columns, found, strict=True):
        for row, outcome in enumerate(outcomes):
            assert expected(column, row, uid_of) in (outcome, outcome.raw_uid)


def test_draining_answers_what_was_read(virtual: Any, make_operator: Any) -> None:
    """No row that was read is lost, and none is read after it."""
    source = Chunks(*([IdentityColumn("email", [one] * 60)] for one in emails(400)))

    async def main() -> int:
        stop = asyncio.Event()
        count = 0
        async with make(make_operator(), source, stop=stop) as dispatcher:
            async for chunk in dispatcher.chunks():
                assert chunk.payload == count
                assert chunk.outcomes()[0][0].raw_uid
                count += 1
                stop.set()
            assert dispatcher.is_drained
        return count

    count = virtual(main())

    assert 0 < count == 400 - len(source.left) < 400


def test_an_operator_that_was_never_reached_ends_the_job(
    virtual: Any, make_operator: Any
) -> None:
    """After one round of retries, with the host and the cause."""

    async def main() -> float:
        source = Chunks(*([IdentityColumn("email", [one])] for one in emails(400)))
        with pytest.raises(errors.ConnectError, match=r"operator\.example: refused"):
            await run(make_operator(lambda _: errors.ConnectError("refused")), source)
        return asyncio.get_running_loop().time()

    assert virtual(main()) < 5


def test_an_operator_that_was_reached_may_come_back(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """A refused connection later on, or after a first error, is an outage."""

    def respond(texts: list[str]) -> Any:
        now = asyncio.get_running_loop().time()
        if now < 0.04:
            return refuse(503)
        return errors.ConnectError("refused") if now < 60 else None

    source = Chunks(*([IdentityColumn("email", [one])] for one in emails(400)))
    found = virtual(run(make_operator(respond), source))

    assert all(one.mapped for (one,) in found)


def test_the_event_loop_is_held_5_ms_at_most(virtual: Any, make_operator: Any) -> None:
    """However much is there to be read and handed out, others run in between."""
    turns: list[float] = []

    class Slow(Chunks):
        def take(self, *, partial: bool) -> Chunk | None:
            # The clock goes on while the CPU works, and not otherwise.
            asyncio.get_running_loop().virtual.waited += 0.0008  # type: ignore[attr-defined] # VirtualLoop
            return super().take(partial=partial)

    async def tick() -> None:
        while True:
            turns.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0)

    async def main() -> None:
        source = Slow(*([IdentityColumn("email", ["bad"])] for _ in range(200)))
        ticker = asyncio.create_task(tick())
        async with make(make_operator(), source) as dispatcher:
            async for _ in dispatcher.chunks():
                asyncio.get_running_loop().virtual.waited += 0.0008  # type: ignore[attr-defined] # as above
        ticker.cancel()

    virtual(main())

    gaps = [after - before for before, after in pairwise(turns)]
    assert turns[-1] >= 0.3
    assert max(gaps) <= 0.005


def test_reprs_show_no_dii(virtual: Any, make_operator: Any) -> None:
    """Neither of columns and chunks nor of the dispatcher."""
    column = IdentityColumn("email", ["canary@example.com"])
    chunk = Chunk("canary", 1, [column])

    async def main() -> str:
        return repr(make(make_operator(), Chunks([column])))

    shown = repr(column) + repr(chunk) + virtual(main())

    assert "canary" not in shown
