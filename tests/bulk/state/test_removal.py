"""Who leaves: absent from a whole audience, or purged."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from uid2_async import MappingState, Phone, PhoneHash
from uid2_async.errors import InputError, JobError
from uid2_async.models import IdentityType, MapRow
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes

EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE


async def test_who_is_absent_is_removed(days: Any) -> None:
    """REMOVED with the UID that was exported; unknown from then on."""
    assert len(await days.full(0, range(40))) == 40
    assert await days.full(1, range(39)) == [(39, "REMOVED", None, days.uid(39))]

    assert days.removed == 1
    assert (await days.look_up(38))[0] is not None
    assert await days.look_up(39) == [None]
    assert await days.unknown(2, 38, 39) == {39}


async def test_who_comes_back_is_added(days: Any) -> None:
    """As a new person, after the removal was exported."""
    await days.full(0, range(40))
    await days.full(1, range(39))

    assert await days.full(2, range(40)) == [(39, "ADDED", days.uid(39), None)]


async def test_who_comes_back_before_a_delta_has_not_changed(days: Any) -> None:
    """Removed and added again between two deltas: nothing to say."""
    await days.full(0, range(40))
    removed = await days.full(1, range(39), export=False)
    assert removed == [(39, "REMOVED", None, days.uid(39))]
    assert await days.look_up(39) == [None]

    assert await days.full(2, range(40)) == []
    assert (await days.look_up(39))[0].raw_uid == days.uid(39)


async def test_who_was_never_exported_leaves_no_line(days: Any, on_disk: Any) -> None:
    """Neither a line in the delta, nor a row in the file."""
    await days.full(0, range(40), export=False)

    changes = await days.full(1, range(39))

    assert {change for _, change, *_ in changes} == {"ADDED"}
    assert days.identity(39) not in on_disk()


async def test_an_opt_out_that_leaves_is_not_named_again(days: Any, path: Path) -> None:
    """Its UID was withdrawn already; the history still says how."""
    await days.full(0, range(40))
    await days.run(1, {39: MapRow(reason="optout")})

    assert await days.full(2, range(39)) == []
    with closing(sqlite3.connect(path)) as other:
        found = other.execute("SELECT change, old_uid, run FROM history").fetchall()
    assert found == [("OPTED_OUT", days.uid(39), 2)]


async def test_too_many_are_not_removed(days: Any) -> None:
    """A wrong file must not empty an audience; the message has the counts."""
    await days.full(0, range(40))

    with pytest.raises(JobError, match=r"3 of the 40 .* more than 5\.0%"):
        await days.full(1, range(37))

    assert len(await days.full(2, range(37), max_removed=0.1)) == 3


async def test_an_empty_input_removes_nobody(days: Any) -> None:
    """Not even where all may be removed: a column was chosen wrongly."""
    await days.full(0, range(40))

    with pytest.raises(JobError, match="no valid identity"):
        await days.full(1, range(0), max_removed=1)

    assert await days.full(2, range(40)) == []


async def test_segments_do_not_remove_each_other_s_members(days: Any) -> None:
    """Who is in another segment stays; who is in no segment is not looked at."""
    await days.run(0, {90: days.mapped(90)})
    await days.full(0, range(20), segment="a")
    await days.full(0, range(10, 30), segment="b")

    await days.full(1, range(15, 20), segment="a", max_removed=1)
    assert days.removed == 10
    await days.full(1, range(20, 30), segment="b", max_removed=1)
    assert days.removed == 5
    assert None not in await days.look_up(90, 15, 25)
    assert await days.look_up(*range(15)) == [None] * 15


async def test_the_default_segment_has_who_is_in_no_segment(
    days: Any, on_disk: Any
) -> None:
    """If a delta had them, they are REMOVED; others are just gone, and do not count."""
    await days.full(0, range(20), segment="a")
    await days.run(0, {number: days.mapped(number) for number in range(10, 60)})
    unexported = range(60, 200)
    answers = {number: days.mapped(number) for number in unexported}
    await days.run(1, answers, export=False)
    days_of = partial(days.full, segment="default", max_removed=0.1)

    with pytest.raises(JobError, match="20 of the 40 identities"):
        await days_of(2, range(40))
    changes = await days_of(2, range(10, 56))

    assert [change[:2] for change in changes if change[0] < 60] == [
        (number, "REMOVED") for number in range(56, 60)
    ]
    assert not any(days.identity(number) in on_disk() for number in unexported)
    assert None not in await days.look_up(*range(20))
    assert len(await days.full(3, range(10, 20), segment="a", max_removed=1)) == 10


@pytest.mark.parametrize("segment", ["a", "default"])
async def test_who_was_added_by_an_aborted_run_is_removed(
    days: Any, segment: str, on_disk: Any
) -> None:
    """By the next one with the right input, and without allowing a larger share."""
    await days.full(0, range(40), segment=segment)
    wrong = [days.identity(number) for number in range(100, 200)]
    for exported in (False, True):
        run = await days.start_run(1, segment=segment)
        await days.state.stage(EMAIL, wrong)
        with pytest.raises(JobError, match="40 of the 40"):
            await days.state.check_absent(segment, 0.05)
        await days.state.check_absent(segment, 1)
        await days.record(run, {number: days.mapped(number) for number in (100, 101)})
        if exported:
            await days.run(1.5, {})
        changes = await days.full(
            2, range(40), segment=segment, max_removed=0.1 if exported else 0.05
        )
        assert [change[1] for change in changes] == ["REMOVED"] * (2 * exported)
        assert not any(
            identity in on_disk() for identity in wrong[1:2] * (not exported)
        )
    assert None not in await days.look_up(*range(40))


async def test_types_and_sizes_are_told_apart(days: Any) -> None:
    """An email does not stand for a phone with the same hash."""
    run = await days.start_run(0)
    for kind, size in ((EMAIL, 31), (EMAIL, 33), (PHONE, 32)):
        await days.state.stage(kind, [b"\xff" * size])
    assert await days.state.remove_absent(run, "all", 0) == 0
    await days.state.finish(run, exported=False)
    run = await days.start_run(1)
    await days.state.stage(EMAIL, [b"\xff" * 32])

    with pytest.raises(JobError, match="3 of the 3"):
        await days.state.remove_absent(run, "all", 0.5)


async def test_a_repeated_removal_removes_nobody_else(days: Any) -> None:
    """A resumed run reports what the run removed, and its delta has it."""
    await days.full(0, range(40))
    run = await days.start_run(1, job="one", segment="all")
    for day in (1, 2):
        run = await days.start_run(day, job="one", segment="all")
        await days.state.stage(EMAIL, [days.identity(n) for n in range(38)])
        assert await days.state.remove_absent(run, "all", 0.05) == 2

    assert len(await days.pending(run)) == 2


async def test_a_purge_leaves_nothing_in_the_files(days: Any, on_disk: Any) -> None:
    """Neither hash nor UID of anybody, in any file, if no delta has exported them."""
    # Added in many parts, so that rows are moved to other pages.
    numbers = range(9000)
    for part in range(9):
        some = {number: days.mapped(number) for number in numbers[part::9]}
        await days.run(0, some, export=False)
    gone = numbers[::7]
    assert days.identity(gone[0]) in on_disk()

    purged = await days.state.purge(map(days.key, gone))

    assert purged == len(gone)
    content = on_disk()
    left = [
        number
        for number in gone
        if days.identity(number) in content or days.uid(number).encode() in content
    ]
    assert left == []
    assert days.identity(1) in content
    assert len(await days.run(1, {})) == len(numbers) - len(gone)


async def test_a_purge_after_a_delta_ends_with_the_next_one(
    days: Any, on_disk: Any
) -> None:
    """The delta says REMOVED once; with that, hash and UID are gone."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("b")})
    await days.run(1, {1: days.mapped("c")})

    for _ in range(2):
        assert (
            await days.state.purge(days.uid("c"), kind="raw_uid", suppress=False) == 1
        )

    assert days.uid("a").encode() not in on_disk()
    assert await days.look_up(1) == [None]
    assert await days.run(2, {}) == [(1, "REMOVED", None, days.uid("c"))]
    assert days.identity(1) not in on_disk()
    assert days.uid("c").encode() not in on_disk()
    assert days.identity(2) in on_disk()
    assert await days.history(2) == []


async def test_a_removed_person_can_be_purged(days: Any, on_disk: Any) -> None:
    """Between the removal and its delta: the line stays, the history forgets it."""
    await days.full(0, range(40))
    await days.full(1, range(39), export=False)

    assert await days.state.purge(days.key(39)) == 1

    assert await days.full(2, range(39)) == [(39, "REMOVED", None, days.uid(39))]
    assert days.identity(39) not in on_disk()


async def test_a_purge_says_if_it_cannot_be_thorough(days: Any, path: Path) -> None:
    """A program that reads the file keeps the old pages in the log."""
    await days.run(0, {1: days.mapped("a")}, export=False)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM mapping").fetchone() == (1,)
        await days.state._call(
            lambda db: db.connection.execute("PRAGMA busy_timeout = 1").fetchall()
        )
        with pytest.raises(JobError, match="reads the state"):
            await days.state.purge(days.uid("a"), kind="raw_uid")

    await days.state.purge(days.uid("a"), kind="raw_uid")


async def test_a_rewrite_that_fails_is_repeated(
    days: Any, path: Path, on_disk: Any
) -> None:
    """It comes after the run has ended, which must not look like a failure."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("b")})
    await days.state.purge(days.key(1))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM run").fetchone() == (1,)
        await days.state._call(
            lambda db: db.connection.execute("PRAGMA busy_timeout = 1").fetchall()
        )
        assert await days.run(1, {}) == [(1, "REMOVED", None, days.uid("a"))]
        assert (await days.state.runs())[-1].ended
        assert days.identity(1) in on_disk()

    await days.state.aclose()
    async with days.state:
        assert days.identity(1) not in on_disk()
        assert days.identity(2) in on_disk()


async def test_nothing_disturbs_an_open_run(days: Any) -> None:
    """Another run, a purge or a vacuum would drop what the run has staged.

    They are refused from its start, and possible once it has ended or was left.
    """
    state, key = days.state, days.key(1)
    for is_finished in (True, False):
        run = await days.start_run(0)
        for staged in (range(0), range(9)):
            await state.stage(EMAIL, [days.identity(number) for number in staged])
            for use in (state.start_run, partial(state.purge, key), state.vacuum):
                with pytest.raises(JobError, match="A job is using the state"):
                    await use()
        assert await days.to_ask(run)
        if is_finished:
            await state.finish(run, exported=False)
        else:
            await state.leave_run()
        assert await state.purge(key, suppress=False) == 0
        await state.vacuum()


async def test_a_purge_waits_for_the_answers_of_a_cancelled_job(days: Any) -> None:
    """They are still recorded, so they must not come after the purge."""
    run = await days.start_run(0)
    answers = {number: days.mapped(number) for number in range(3000)}
    both = [asyncio.create_task(days.record(run, answers)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in both:
        task.cancel()
    await asyncio.wait(both)
    await days.state.leave_run()

    assert await days.state.purge(map(days.key, range(3000)), suppress=False) == 3000
    assert await days.look_up(1) == [None]


@pytest.mark.parametrize("exported", [True, False])
async def test_who_comes_back_after_a_removal_is_added(
    days: Any, exported: bool
) -> None:
    """An earlier opt-out is forgotten once a delta has said REMOVED, and not before."""
    everyone = range(20)
    await days.full(0, everyone)
    await days.run(1, {1: MapRow(reason="optout")})
    run = await days.start_run(2)
    await days.record(run, {1: days.mapped("b")})
    assert await days.pending(run) == [(1, "RETURNED", days.uid("b"), None)]
    await days.state.finish(run, exported=True)
    gone = await days.full(3, range(2, 20), max_removed=1, export=exported)
    assert [name for _, name, *_ in gone] == ["REMOVED", "REMOVED"]

    await days.run(4, {1: days.mapped("c")})

    expected = "ADDED" if exported else "RETURNED"
    assert (1, expected, days.uid("c"), None) in await days.history(3)
    kept = "ADDED" if exported else "ROTATED"
    changes = {number: name for number, name, *_ in await days.history(5)}
    assert changes.get(1) == kept


async def test_the_scratch_file_ends_with_its_run(
    days: Any, path: Path, on_disk: Any
) -> None:
    """It is private, and nothing of it stays; what it has is asked about in order."""
    await days.full(0, range(100))
    run = await days.start_run(9)
    # A hundred thousand stay in memory.
    keys = [days.identity(number) for number in range(10, 102_000)]
    for some in (keys[:101_000], keys[100_500:]):
        await days.state.stage(EMAIL, some)
    asked = days.state.to_ask(run)
    assert [key async for _, page in asked for key in page] == sorted(keys)
    assert await days.state.remove_absent(run, "all", 0.1) == 10
    other = days.identity(200_000)
    await days.state.stage(EMAIL, [other])
    asked = days.state.to_ask(run)
    assert other in [key async for _, page in asked for key in page]
    scratch = path.with_name("people.db-staging")
    assert scratch.stat().st_mode & 0o777 == 0o600
    assert other in on_disk()

    await days.state.finish(run, exported=False)

    assert not scratch.exists()
    assert other not in on_disk()


async def test_any_uid_of_a_person_finds_them(days: Any) -> None:
    """The caller may know the UID of last month, or only the exported one."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("x")})
    await days.run(1, {1: days.mapped("b"), 2: MapRow(reason="optout")}, export=False)

    uids = [days.uid("a"), days.uid("x"), "nobody"]
    assert await days.state.purge(uids, kind="raw_uid") == 2


async def test_people_are_named_by_text(days: Any) -> None:
    """Email, phone, hash of either, raw UID: by its form, or by the kind given."""
    email = identity_bytes("email", "user@example.com") or b""
    phone = identity_bytes("phone", "+12025550147") or b""
    run = await days.start_run(0)
    for kind, key in ((EMAIL, email), (PHONE, phone), (PHONE, days.identity(1))):
        await days.state.record(run, kind, [key], [days.mapped(key)])
    await days.record(run, {2: days.mapped(2), 3: days.mapped(3)})
    await days.state.finish(run, exported=False)
    purge = days.state.purge

    assert await purge(["USER@example.com", Phone("+12025550147")]) == 2
    assert await purge(base64.encode_text(days.identity(1))) == 1
    assert await purge(days.uid(2)) == 1
    assert await purge(days.identity(3).hex(), kind="phone_hash") == 0
    assert await purge(PhoneHash(days.identity(3).hex()), suppress=False) == 0
    assert await purge(days.identity(3).hex(), kind="email_hash") == 1
    with pytest.raises(InputError, match="Number 2 is not an email") as caught:
        await purge(["user@example.com", "somebody"])
    assert "somebody" not in str(caught.value)


@pytest.mark.parametrize("known", [True, False])
async def test_who_is_suppressed_is_not_added_again(
    days: Any, on_disk: Any, path: Path, known: bool
) -> None:
    """Returned as opted out, never asked about, never stored; after a restart, too."""
    if known:
        await days.run(0, {1: days.mapped("a")}, export=False)
    await days.state.purge(days.key(1))
    for other in (2, 3):
        (row,) = await days.look_up(1)
        assert (row.reason, row.raw_uid, row.change) == ("optout", None, None)
        assert await days.unknown(1, 1, other) == {other}
        run = await days.start_run(1)
        await days.record(run, {1: days.mapped("a"), other: days.mapped("b")})
        assert await days.look_up(1) == [row]
        assert (await days.look_up(other))[0].raw_uid == days.uid("b")
        await days.state.finish(run, exported=True)
        await days.state.aclose()
        await days.state.__aenter__()
    assert days.identity(1) not in on_disk("people.db")
    assert (await days.state.statistics()).suppressed == 1


async def test_who_is_suppressed_is_no_member_of_an_audience(
    days: Any, on_disk: Any
) -> None:
    """A whole audience that still has them stores the others only."""
    await days.full(0, range(40))
    await days.state.purge(days.key(7))
    assert await days.full(1, range(40)) == [(7, "REMOVED", None, days.uid(7))]
    await days.full(2, range(40))
    await days.state.aclose()

    assert days.identity(7) not in on_disk()
    assert days.identity(8) in on_disk()
    await days.state.__aenter__()


async def test_who_is_not_suppressed_can_come_back(days: Any) -> None:
    """As a new person."""
    await days.run(0, {1: days.mapped("a")}, export=False)
    await days.state.purge(days.key(1), suppress=False)

    assert await days.unknown(1, 1) == {1}
    changes = await days.run(1, {1: days.mapped("a")})
    assert changes == [(1, "ADDED", days.uid("a"), None)]


async def test_a_vacuum_makes_the_file_smaller(days: Any, path: Path) -> None:
    """What is left is still there."""
    people = {number: days.mapped(number) for number in range(5000)}
    for day, count in enumerate((5000, 10)):
        run = await days.start_run(day, segment="all")
        keys = [days.identity(number) for number in range(count)]
        await days.state.stage(EMAIL, keys)
        await days.record(run, people if day == 0 else {})
        await days.state.remove_absent(run, "all", 1)
        await days.state.finish(run, exported=True)
    before = path.stat().st_size  # noqa: ASYNC240 - nothing else runs

    await days.state.vacuum()

    size = path.stat().st_size  # noqa: ASYNC240 - nothing else runs
    assert size < before * 0.6  # the history of the removed is kept
    assert (await days.state.statistics()).file_bytes == size
    assert None not in await days.look_up(*range(10))


async def test_a_state_that_ends_in_the_middle_can_be_purged(path: Path) -> None:
    """The scratch file of a job that was killed is deleted first."""
    path.with_name("people.db-staging").write_bytes(b"left behind")
    async with MappingState(path) as state:
        await asyncio.sleep(0)
        assert not path.with_name("people.db-staging").exists()
        assert await state.purge("user@example.com") == 0
