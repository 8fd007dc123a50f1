"""Who leaves: absent from a whole audience, or purged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.state import IdentityKey
from uid2_async.errors import JobError
from uid2_async.models import IdentityType, MapRow

OPTED_OUT = MapRow(e="optout")
EMAIL = IdentityType.EMAIL


async def full(
    days: Any, day: float, numbers: range, *, segment: str = "all", most: float = 0.05
) -> int:
    """Do a run over a whole audience, and tell its changes."""
    run = await days.begin(day)
    keys = [days.identity(number) for number in numbers]
    found = await days.state.look_up(run, EMAIL, keys)
    asked = [n for n, row in zip(numbers, found, strict=True) if row is None]
    await days.record(run, {number: days.mapped(number) for number in asked})
    await days.state.mark_present(run, segment, EMAIL, keys)
    removed: int = await days.state.remove_absent(run, segment, most=most)
    await days.state.finish(run, told_until=await days.state.last_seq())
    return removed


async def test_who_is_absent_is_removed(days: Any) -> None:
    """REMOVED with the UID that was told; unknown from then on."""
    assert await full(days, 0, range(40)) == 0
    assert await full(days, 1, range(39)) == 1

    assert await days.changes(40) == [(39, "REMOVED", None, days.uid(39))]
    assert await days.get(await days.begin(2), 38, 39) != [None, None]
    assert (await days.get(await days.begin(2), 39)) == [None]


async def test_who_comes_back_is_added(days: Any) -> None:
    """As somebody new, after the removal was told."""
    await full(days, 0, range(40))
    await full(days, 1, range(39))
    await full(days, 2, range(40))

    assert await days.changes(41) == [(39, "ADDED", days.uid(39), None)]


async def test_who_comes_back_before_it_was_told_has_not_changed(days: Any) -> None:
    """Removed and added again, between two deltas: nothing to tell."""
    await full(days, 0, range(40))
    run = await days.begin(1)
    keys = [days.identity(number) for number in range(39)]
    await days.state.mark_present(run, "all", EMAIL, keys)
    assert await days.state.remove_absent(run, "all", most=0.05) == 1
    await days.state.finish(run, told_until=None)
    assert await days.look_up(await days.begin(2), 39) == [None]

    await days.run(2, {39: days.mapped(39)}, tell=False)

    assert await days.changes(40) == []


async def test_too_many_are_not_removed(days: Any) -> None:
    """A wrong file must not empty an audience; the message has the counts."""
    await full(days, 0, range(40))

    with pytest.raises(JobError, match=r"3 of the 40 .* more than 5\.0%"):
        await full(days, 1, range(37))

    assert await days.changes(40) == []
    assert await full(days, 1, range(37), most=0.1) == 3


async def test_segments_do_not_remove_each_other_s_members(days: Any) -> None:
    """Who is in another segment stays; who is in no segment is not looked at."""
    await days.run(0, {90: days.mapped(90)})
    await full(days, 0, range(20), segment="a")
    await full(days, 0, range(10, 30), segment="b")

    assert await full(days, 1, range(15, 20), segment="a", most=1) == 10
    assert await full(days, 1, range(20, 30), segment="b", most=1) == 5
    assert await days.get(await days.begin(2), 90, 15, 25) != [None] * 3
    gone = await days.get(await days.begin(2), *range(15))
    assert gone == [None] * 15


async def test_marks_of_a_resumed_run_count_once(days: Any) -> None:
    """The same identities, marked twice, and of an odd size."""
    run = await days.begin(0)
    keys = [b"\xff" * 31, b"\xff" * 33, b"\xff" * 32]
    for _ in range(2):
        await days.state.mark_present(run, "all", EMAIL, keys)
    assert await days.state.remove_absent(run, "all", most=0) == 0
    await days.state.finish(run, told_until=None)

    again = await days.begin(1)
    with pytest.raises(JobError, match="3 of the 3"):
        await days.state.remove_absent(again, "all", most=0.5)


async def test_a_purge_leaves_nothing_in_the_files(days: Any, on_disk: Any) -> None:
    """Neither hash nor UID, in any file, if no delta has told it."""
    await days.run(0, {number: days.mapped(number) for number in range(50)}, tell=False)
    run = await days.begin(1)
    assert days.identity(7) in on_disk()

    purged = await days.state.purge(
        run, identities=[IdentityKey(EMAIL, days.identity(7))], remember=False
    )

    assert purged == 1
    assert days.identity(7) not in on_disk()
    assert days.uid(7).encode() not in on_disk()
    assert days.identity(8) in on_disk()
    assert len(await days.changes()) == 49
    assert await days.get(run, 7) == [None]


async def test_a_purge_of_who_was_told_ends_with_the_next_delta(
    days: Any, on_disk: Any
) -> None:
    """The delta says REMOVED once; with that, hash and UID are gone."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("b")})
    await days.run(1, {1: days.mapped("c")})
    run = await days.begin(2)

    assert await days.state.purge(run, raw_uids=[days.uid("c")], remember=False) == 1
    assert await days.state.purge(run, raw_uids=[days.uid("c")], remember=False) == 1

    assert await days.changes() == [
        (2, "ADDED", days.uid("b"), None),
        (1, "REMOVED", None, days.uid("c")),
    ]
    assert days.uid("a").encode() not in on_disk()
    await days.state.finish(run, told_until=await days.state.last_seq())
    assert days.identity(1) not in on_disk()
    assert days.uid("c").encode() not in on_disk()
    assert days.identity(2) in on_disk()


async def test_a_purge_says_if_it_cannot_be_thorough(days: Any, path: Path) -> None:
    """A program that reads the file keeps the old pages in the WAL."""
    await days.run(0, {1: days.mapped("a")}, tell=False)
    run = await days.begin(1)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM mapping").fetchone() == (1,)
        await days.state._ask(
            lambda store: store.connection.execute("PRAGMA busy_timeout = 1").fetchall()
        )
        with pytest.raises(JobError, match="reads the state"):
            await days.state.purge(run, raw_uids=[days.uid("a")], remember=False)

    await days.state.purge(run, raw_uids=[days.uid("a")], remember=False)


async def test_the_previous_uid_finds_a_person_too(days: Any) -> None:
    """Whoever asks may know the UID of last month."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: days.mapped("b")})
    run = await days.begin(2)

    assert await days.state.purge(run, raw_uids=[days.uid("a")], remember=False) == 1
    assert await days.state.purge(run, raw_uids=["nobody"], remember=False) == 0


@pytest.mark.parametrize("known", [True, False])
async def test_who_is_remembered_is_not_added_again(
    days: Any, on_disk: Any, known: bool
) -> None:
    """Answered as opted out, never asked about, never stored."""
    if known:
        await days.run(0, {1: days.mapped("a")}, tell=False)
    run = await days.begin(1)
    key = IdentityKey(EMAIL, days.identity(1))
    await days.state.purge(run, identities=[key], remember=True)

    (row,) = await days.look_up(run, 1)
    assert (row.e, row.u, row.s) == ("optout", None, 0)
    rows = await days.record(run, {1: days.mapped("a"), 2: days.mapped("b")})
    assert rows[1] == row
    assert rows[2].u == days.uid("b")

    await days.state.finish(run, told_until=None)
    assert days.identity(1) not in on_disk()
    assert (await days.state.counts(now=days.at(1))).forgotten == 1
