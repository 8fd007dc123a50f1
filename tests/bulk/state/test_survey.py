"""What is due, counted and exported."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

from uid2_async.bulk.state import Run, Selection, survey
from uid2_async.models import IdentityScope, IdentityType, MapRow

OPTED_OUT = MapRow(e="optout")
INVALID = MapRow(e="invalid identifier")
EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE


async def due(days: Any, run: Run, selection: Selection, limit: int = 3) -> set[int]:
    """List who is due, by number; each of them once."""
    numbers = {days.identity(number): number for number in range(100)}
    found = [
        numbers[key.identity]
        async for page in days.state.due(run, selection, limit=limit)
        for key in page
    ]
    assert len(set(found)) == len(found)
    return set(found)


async def test_a_refresh_selects_what_is_due(days: Any) -> None:
    """refresh_from has come, or the slow cadence of who is not mapped has."""
    answers = {number: days.mapped(number, due=number) for number in range(10)}
    await days.run(0, {**answers, 20: OPTED_OUT, 21: INVALID, 22: MapRow(e="new")})

    for day, expected in (
        (0.5, {0}),
        (5, {0, 1, 2, 3, 4, 5}),
        (7, {*range(8), 22}),
        (30, {*range(10), 20, 22}),
        (180, {*range(10), 20, 21, 22}),
    ):
        run = await days.begin(day)
        for limit in (1, 3, 100):
            found = await due(days, run, Selection.refresh(), limit)
            assert found == expected, day


async def test_what_is_due_is_found_by_an_index(days: Any) -> None:
    """Only the first refresh goes through all rows: it makes the index on the way."""
    await days.run(0, {1: days.mapped("a", due=1), 2: days.mapped("b", due=9)})

    assert await due(days, await days.begin(2), Selection.refresh()) == {1}

    with closing(sqlite3.connect(days.state._path)) as connection:
        given = {"day": 0, "identity": b"", "kind": 0, "started": 0, "limit": 1}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {survey._DUE}", given)
        assert "mapping_due" in plan.fetchone()[3]


async def test_what_was_recorded_is_due_no_more(days: Any) -> None:
    """Whether it is merged yet or not: a refresh can be broken off and begun again."""
    await days.run(0, {number: days.mapped(number, due=1) for number in range(10)})
    run = await days.begin(1, job="refresh")
    # Due again at once, by what the operator says: but not in this run.
    await days.record(run, {number: days.mapped(number, due=1) for number in range(4)})
    assert await due(days, run, Selection.refresh()) == set(range(4, 10))

    run = await days.begin(2, job="refresh")

    assert await due(days, run, Selection.refresh()) == set(range(4, 10))


async def test_a_sweep_selects_what_was_not_checked(days: Any) -> None:
    """Mapped or opted out, due or not; invalid ones cannot opt out."""
    await days.run(0, {1: days.mapped(1), 2: OPTED_OUT, 3: INVALID})
    await days.run(3, {4: days.mapped(4)})

    run = await days.begin(5)

    assert await due(days, run, Selection.sweep(timedelta(days=5)), 1) == {1, 2}
    assert await due(days, run, Selection.sweep(timedelta(0)), 2) == {1, 2, 4}
    await days.record(run, {1: days.mapped(1)})
    assert await due(days, run, Selection.sweep(timedelta(0)), 2) == {2, 4}


async def test_buckets_select_what_was_checked_before_they_rotated(days: Any) -> None:
    """For the old API, whose rows name no day."""
    rows = {n: MapRow(u=days.uid(n), bucket_id=f"b{n % 3}") for n in range(9)}
    await days.run(0, rows)
    await days.run(2, {3: rows[3]})
    run = await days.begin(3)

    selection = Selection.of_buckets(
        {"b0": days.at(1), "b1": days.at(0), "x": days.at(2)}
    )

    assert await due(days, run, selection, 2) == {0, 6}


async def test_everything_is_counted(days: Any) -> None:
    """By type and status, with what is due, untold and how old."""
    run = await days.begin(0)
    kinds = [EMAIL, EMAIL, PHONE, PHONE]
    answers = [days.mapped(1, due=1), OPTED_OUT, INVALID, days.mapped(2)]
    keys = [days.identity(number) for number in range(4)]
    await days.state.record(run, kinds, keys, answers)
    await days.state.finish(run, told_until=1)

    counts = await days.state.counts(now=days.at(1))

    assert counts.rows == {
        (EMAIL, "mapped"): 1,
        (EMAIL, "optout"): 1,
        (PHONE, "invalid identifier"): 1,
        (PHONE, "mapped"): 1,
    }
    assert (counts.due, counts.untold, counts.forgotten) == (1, 1, 0)
    assert counts.oldest_check == days.seconds(0)
    assert [run.number for run in counts.runs] == [1]
    assert (counts.scope, counts.operator) == (
        IdentityScope.UID2,
        "https://operator.example",
    )
    assert counts.file_bytes > 4096


async def test_an_empty_state_can_be_counted(days: Any) -> None:
    """Before the first run it belongs to nobody."""
    counts = await days.state.counts(now=days.at(0))

    assert (counts.rows, counts.scope, counts.oldest_check) == ({}, None, None)


async def test_everything_can_be_exported(days: Any) -> None:
    """In the order of the identities, in pages, what is not merged yet included."""
    await days.run(0, {number: days.mapped(number) for number in range(10)})
    run = await days.begin(1)
    await days.record(run, {10: OPTED_OUT})

    pages = [page async for page in days.state.export(now=days.at(1), limit=4)]

    assert [len(page) for page in pages] == [4, 4, 3]
    keys = [key.identity for page in pages for key, _ in page]
    assert keys == sorted(days.identity(number) for number in range(11))
    rows = {key.identity: row for page in pages for key, row in page}
    assert rows[days.identity(3)].u == days.uid(3)
    assert rows[days.identity(10)].e == "optout"


async def test_a_vacuum_makes_the_file_smaller(days: Any) -> None:
    """What is left is still there."""
    await days.run(0, {number: days.mapped(number) for number in range(2000)})
    run = await days.begin(1)
    uids = [days.uid(number) for number in range(10, 2000)]
    await days.state.purge(run, raw_uids=uids, remember=False)
    await days.state.finish(run, told_until=await days.state.last_seq())
    before = (await days.state.counts(now=days.at(1))).file_bytes

    await days.state.vacuum()

    assert (await days.state.counts(now=days.at(1))).file_bytes < before / 2
    assert None not in await days.get(run, *range(10))
