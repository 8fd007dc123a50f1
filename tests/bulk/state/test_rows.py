"""What the state says of an identity, and when the operator must be asked."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from uid2_async import Email, EmailHash, Phone
from uid2_async.bulk.outcomes import MapFailure
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import IdentityKey, StateRow
from uid2_async.errors import InputError
from uid2_async.models import IdentityType, MapRow
from uid2_async.protocol.normalize import identity_bytes

OPTED_OUT = MapRow(reason="optout")
INVALID = MapRow(reason="invalid identifier")
EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE


async def test_answers_are_aligned_with_the_question(days: Any) -> None:
    """None stands for what is unknown; duplicates are answered each time."""
    await days.run(0, {1: days.mapped("a")})

    found = await days.look_up(2, 1, 3, 1)

    assert [row and row.raw_uid for row in found] == [
        None,
        days.uid("a"),
        None,
        days.uid("a"),
    ]


async def test_each_identity_is_asked_about_once(days: Any) -> None:
    """However often it is staged; the counts say how many were known."""
    await days.run(0, {1: days.mapped("a")})
    run = await days.start_run(1)
    for _ in range(3):
        keys = [days.identity(number) for number in (1, 2, 2, 3)]
        await days.state.stage(EMAIL, keys)

    asked = await days.to_ask(run)

    assert sorted(asked) == [2, 3]
    counts = days.state.staging_counts
    assert (counts.staged, counts.distinct, counts.known) == (12, 3, 1)


async def test_pages_are_full_and_in_order(days: Any) -> None:
    """In the order of the identities, none longer than the limit."""
    run = await days.start_run(0)
    keys = [days.identity(number) for number in range(3_000)]
    await days.state.stage(EMAIL, keys)

    pages = [page async for _, page in days.state.to_ask(run, limit=7)]

    assert [key for page in pages for key in page] == sorted(keys)
    assert max(map(len, pages)) == 7


async def test_what_is_due_must_be_asked(days: Any) -> None:
    """refresh_from is the first second in which the UID may be another."""
    await days.run(0, {1: days.mapped("a", due=2)})

    assert await days.unknown(1.99, 1) == set()
    assert await days.unknown(2, 1) == {1}
    assert await days.look_up(1) != [None]


@pytest.mark.parametrize(
    ("answer", "known", "asked"),
    [
        (MapRow(raw_uid="u" * 44, refresh_from_s=4_000_000_000), 6.9, 7),
        (MapRow(raw_uid="u" * 44, bucket_id="b"), 6.9, 7),
        (OPTED_OUT, 29.9, 30),
        (INVALID, 179.9, 180),
        (MapRow(reason="something new"), 6.9, 7),
        (MapRow(), 6.9, 7),
    ],
)
async def test_what_was_not_checked_for_too_long_must_be_asked(
    days: Any, answer: MapRow, known: float, asked: float
) -> None:
    """A week for what is mapped, a month for opt-outs, half a year for invalid ones."""
    await days.run(0, {1: answer})

    assert await days.unknown(known, 1) == set()
    assert await days.unknown(asked, 1) == {1}


async def test_what_was_asked_in_this_run_is_not_asked_again(days: Any) -> None:
    """Not even if the operator says that it is due already, nor after a restart."""
    run = await days.start_run(0, job="one")
    await days.record(run, {1: days.mapped("a", due=-1)})

    run = await days.start_run(1, job="one")
    await days.state.stage(EMAIL, [days.identity(1), days.identity(2)])

    assert await days.to_ask(run) == [2]


async def test_a_failure_lasts_for_its_run(days: Any) -> None:
    """It comes before what was known; the next run asks again."""
    failure = MapFailure(error="ServerError", status=500)
    await days.run(0, {1: days.mapped("a")})
    run = await days.start_run(9)
    await days.record(run, {1: failure, 2: failure, 3: MapFailure(error="X")})

    assert await days.look_up(1, 2, 3, 4) == [
        failure,
        failure,
        MapFailure(error="X"),
        None,
    ]
    await days.state.finish(run, exported=False)

    assert await days.unknown(9, 1, 2) == {1, 2}
    (row,) = await days.look_up(1)
    assert row.raw_uid == days.uid("a")


async def test_the_replaced_uid_is_the_previous_one(days: Any) -> None:
    """If the operator names none; 90 days after it was noticed it is gone."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(10, {1: days.mapped("b")})
    for day, expected in ((10, "a"), (99.9, "a"), (100, None)):
        days.now = days.at(day)
        (row,) = await days.look_up(1)
        assert row.previous_raw_uid == (expected and days.uid(expected))
    await days.run(99.9, {1: days.mapped("b")})
    await days.run(100, {1: days.mapped("b")})
    days.now = days.at(50)

    (row,) = await days.look_up(1)

    assert row.previous_raw_uid is None


async def test_the_operator_s_previous_uid_comes_first(days: Any) -> None:
    """It knows of rotations that the state did not see."""
    await days.run(0, {1: days.mapped("a")})

    await days.run(1, {1: days.mapped("c", prev=days.uid("b"))})

    (row,) = await days.look_up(1)
    assert row.previous_raw_uid == days.uid("b")


async def test_an_old_uid_leaves_the_file(days: Any, on_disk: Any) -> None:
    """What is hidden after 90 days is deleted, for opted-out people too."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("c")})
    await days.run(10, {1: days.mapped("b"), 2: OPTED_OUT})
    assert days.uid("a").encode() in on_disk()
    assert days.uid("c").encode() in on_disk()

    await days.run(101, {})

    assert days.uid("a").encode() not in on_disk()
    assert days.uid("c").encode() not in on_disk()
    assert days.uid("b").encode() in on_disk()


async def test_an_opt_out_shows_no_uid(days: Any) -> None:
    """From the first second on, though the file keeps it for a while."""
    await days.run(0, {1: days.mapped("a", prev=days.uid("z"))})

    await days.run(1, {1: OPTED_OUT})

    (row,) = await days.look_up(1)
    assert (row.raw_uid, row.previous_raw_uid, row.refresh_from_s, row.reason) == (
        None,
        None,
        None,
        "optout",
    )


async def test_a_uid_beside_a_reason_does_not_count(days: Any) -> None:
    """Where an answer has a reason, its UID is not used."""
    changes = await days.run(0, {1: MapRow(raw_uid=days.uid("a"), reason="optout")})

    (row,) = await days.look_up(1)
    assert (row.raw_uid, row.reason, changes) == (None, "optout", [])


async def test_identities_of_other_sizes_are_kept_apart(days: Any) -> None:
    """Hashes of 31 and 33 bytes exist, and emails and phones with the same one."""
    run = await days.start_run(0)
    keys = [b"k" * 32, b"k" * 31, b"k" * 33, b"k" * 32]
    kinds = [EMAIL, EMAIL, PHONE, PHONE]
    for number, (kind, key) in enumerate(zip(kinds, keys, strict=True)):
        await days.state.stage(kind, [key])
        await days.state.record(run, kind, [key], [days.mapped(number)])

    emails = await days.state.look_up(EMAIL, keys)
    phones = await days.state.look_up(PHONE, keys)

    uids = [days.uid(number) for number in range(4)]
    found = [
        [rows[key] and rows[key].raw_uid for key in keys] for rows in (emails, phones)
    ]
    assert found[0] == [uids[0], uids[1], None, uids[0]]
    assert found[1] == [uids[3], None, uids[2], uids[3]]
    assert await days.to_ask(run) == []
    assert days.state.staging_counts.known == 4


async def test_twice_in_one_call_is_once_in_the_state(days: Any) -> None:
    """The last answer holds, without a trace of the others."""
    run = await days.start_run(0)
    answers = [days.mapped("a"), days.mapped("b")]

    await days.state.record(run, EMAIL, [days.identity(1)] * 2, answers)

    assert [(row.raw_uid, row.previous_raw_uid) for row in await days.look_up(1)] == [
        (days.uid("b"), None)
    ]


async def test_any_answer_comes_back_as_it_came(days: Any) -> None:
    """Texts of any length and script, buckets, and instants up to the year 9999."""
    answers = {
        1: MapRow(raw_uid=days.uid("a"), bucket_id='b"1'),
        2: MapRow(
            raw_uid="ü" * 44, previous_raw_uid='"\\', refresh_from_s=253_402_300_799
        ),
        3: MapRow(raw_uid="short ", refresh_from_s=0),
        4: MapRow(reason="new \n"),
        5: MapRow(raw_uid="", refresh_from_s=1),
        6: MapRow(),
    }
    await days.run(0, answers)

    rows = await days.look_up(*answers)

    assert [
        (
            row.raw_uid,
            row.previous_raw_uid,
            row.refresh_from_s,
            row.reason,
            row.bucket_id,
        )
        for row in rows
    ] == [
        (days.uid("a"), None, None, None, 'b"1'),
        ("ü" * 44, '"\\', 253_402_300_799, None, None),
        ("short ", None, 0, None, None),
        (None, None, None, "new \n", None),
        (None, None, None, "unknown", None),
        (None, None, None, "unknown", None),
    ]


async def test_many_calls_share_their_commits(days: Any) -> None:
    """Calls that wait at the same time become durable together."""
    run = await days.start_run(0)
    begins: list[str] = []
    await days.state._call(
        lambda db: db.connection.set_trace_callback(
            lambda text: begins.append(text) if text == "COMMIT" else None
        )
    )

    await asyncio.gather(
        *[days.record(run, {number: days.mapped(number)}) for number in range(50)]
    )

    assert None not in await days.look_up(*range(50))
    assert len(begins) <= 2


class Recorder(sqlite3.Connection):
    """Counts the statements that record answers."""

    recorded = 0

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        Recorder.recorded += sql.startswith("INSERT INTO mapping_row")
        return super().execute(sql, *parameters)


class CountingState(MappingState):
    """A state whose statements are counted."""

    _connection_factory = Recorder


async def test_scattered_answers_are_recorded_in_steps(path: Path, of: Any) -> None:
    """A statement keeps a copy of each page that it changes, so it changes few."""
    days = of(path, CountingState)
    keys = sorted(days.identity(number) for number in range(200_000))
    statements = []
    async with days.state as state:
        run = await days.start_run(0)
        for start in range(0, len(keys), 5_000):
            some = keys[start : start + 5_000]
            await state.record(run, EMAIL, some, [days.mapped("a")] * len(some))
        for some in (keys[:4_000], keys[::50]):  # adjacent, and scattered
            Recorder.recorded = 0
            await state.record(run, EMAIL, some, [days.mapped("b")] * len(some))
            statements.append(Recorder.recorded)
        rows = await state.look_up(EMAIL, keys[::50])

    assert statements == [1, 4]
    assert {row.raw_uid for row in rows.values()} == {days.uid("b")}


async def test_arguments_of_different_lengths_are_refused(days: Any) -> None:
    """Nothing is recorded under another identity."""
    run = await days.start_run(0)

    with pytest.raises(InputError, match="one outcome for each identity"):
        await days.state.record(run, EMAIL, [days.identity(1)], [])


async def test_people_are_found_as_they_are_written(days: Any) -> None:
    """By text, by identity, and by key; a list for a list."""
    run = await days.start_run(0)
    email = identity_bytes("email", "user@example.com") or b""
    phone = identity_bytes("phone", "+12025550147") or b""
    await days.state.record(run, EMAIL, [email], [days.mapped("a")])
    await days.state.record(run, PHONE, [phone], [days.mapped("b")])
    get = days.state.get

    row = await get(" USER@example.com")
    assert isinstance(row, StateRow)
    assert row.raw_uid == days.uid("a")
    assert await get(Email("user@example.com")) == row
    assert await get(IdentityKey(EMAIL, email)) == row
    hashed = EmailHash(email.hex())
    many = days.state.get_many
    found = await many([hashed, "+12025550147", Phone("+12025550148")])
    assert [one and one.raw_uid for one in found] == [
        days.uid("a"),
        days.uid("b"),
        None,
    ]
    with pytest.raises(InputError, match="Number 2 is not a valid email") as caught:
        await many(["user@example.com", "nobody"])
    assert "nobody" not in str(caught.value)


async def test_a_refresh_selects_what_is_due(days: Any) -> None:
    """Mapped ones by refresh_from, others by their recheck interval."""
    await days.run(0, {1: days.mapped(1, due=5), 2: days.mapped(2, due=50)})
    await days.run(0, {3: OPTED_OUT, 4: INVALID, 5: MapRow(reason="new")})
    await days.run(1, {6: days.mapped(6, due=5), 7: OPTED_OUT})

    for day, expected in (
        (4.9, set()),
        (5, {1, 6}),
        (7, {1, 5, 6}),
        (30, {1, 3, 5, 6}),
        (200, {1, 2, 3, 4, 5, 6, 7}),
    ):
        run = await days.start_run(day)
        found = await days.to_ask(run, "due", limit=2)
        assert (set(found), len(found)) == (expected, len(expected))
    due = [key async for page in days.state.due() for key in page]
    assert len(due) == 7


async def test_what_was_recorded_is_due_no_more(days: Any) -> None:
    """A refresh can be interrupted and begun again."""
    await days.run(0, {number: days.mapped(number, due=1) for number in range(10)})
    run = await days.start_run(1, job="refresh")
    # Due again at once, by what the operator says: but not in this run.
    await days.record(run, {number: days.mapped(number, due=1) for number in range(4)})

    run = await days.start_run(2, job="refresh")

    assert set(await days.to_ask(run, "due")) == set(range(4, 10))


async def test_a_sweep_selects_what_was_not_checked(days: Any) -> None:
    """Mapped or opted out, due or not; invalid ones cannot opt out."""
    await days.run(0, {1: days.mapped(1), 2: OPTED_OUT, 3: INVALID})
    await days.run(3, {4: days.mapped(4)})
    run = await days.start_run(5)

    async def sweep(since: int) -> set[int]:
        selection = {"unchecked_for": timedelta(days=since)}
        return set(await days.to_ask(run, **selection))

    assert await sweep(5) == {1, 2}
    assert await sweep(0) == {1, 2, 4}
    await days.record(run, {1: days.mapped(1)})
    assert await sweep(0) == {2, 4}


async def test_buckets_select_what_was_checked_before_they_rotated(days: Any) -> None:
    """For the old API, whose rows name no day; of the others, what is due is asked."""
    rows = {n: MapRow(raw_uid=days.uid(n), bucket_id=f"b{n % 3}") for n in range(9)}
    assert await days.state.oldest_bucket_check() is None
    await days.run(0, {**rows, 20: OPTED_OUT, 21: days.mapped(21, due=20)})
    await days.run(2, {3: rows[3]})
    run = await days.start_run(3)
    before = days.at(0) - timedelta(seconds=1)
    rotated = {"b0": days.at(1), "b1": before, "x": days.at(2)}

    for _ in range(2):
        selection = {"rotated": rotated}
        assert set(await days.to_ask(run, **selection)) == {0, 6}
    assert await days.to_ask(run, rotated={}) == []
    # Both times are in seconds, and the answer may be the older one.
    assert set(await days.to_ask(run, rotated={"b1": days.at(0)})) == {1, 4, 7}
    assert await days.state.oldest_bucket_check() == days.at(0)
    run = await days.start_run(31)
    assert set(await days.to_ask(run, rotated={})) == {20, 21}
    # The current API does not name buckets, so all of them are checked after a week.
    assert set(await days.to_ask(run, "due")) == {*range(9), 20, 21}


async def test_everything_can_be_exported(days: Any) -> None:
    """In the order of the identities, in pages."""
    run = await days.start_run(1)
    await days.record(run, {number: days.mapped(number) for number in range(800)})
    await days.record(run, {10: OPTED_OUT})

    pages = [page async for page in days.state.export(limit=3)]

    keys = [key.identity for page in pages for key, _ in page]
    assert keys == sorted(days.identity(number) for number in range(800))
    assert max(map(len, pages)) == 3
    rows = {key.identity: row for page in pages for key, row in page}
    assert rows[days.identity(3)].raw_uid == days.uid(3)
    assert rows[days.identity(10)].reason == "optout"
