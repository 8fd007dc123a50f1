"""What a delta says: the difference between what was exported and what holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from uid2_async.errors import InputError
from uid2_async.models import IdentityType, MapRow

OPTED_OUT = MapRow(reason="optout")
INVALID = MapRow(reason="invalid identifier")
EMAIL = IdentityType.EMAIL


async def test_a_new_identity_is_added(days: Any) -> None:
    """A new mapped person is ADDED; opted out or invalid is not a change."""
    changes = await days.run(0, {1: days.mapped("a"), 2: OPTED_OUT, 3: INVALID})

    assert changes == [(1, "ADDED", days.uid("a"), None)]
    assert await days.run(1, {}) == []


async def test_another_uid_is_a_rotation(days: Any) -> None:
    """The delta names the UID that it exported before, and so does the row."""
    await days.run(0, {1: days.mapped("a")})
    run = await days.start_run(1)
    await days.record(run, {1: days.mapped("b")})

    (row,) = await days.look_up(1)
    assert (row.change, row.old_uid) == ("ROTATED", days.uid("a"))
    assert await days.pending(run) == [(1, "ROTATED", days.uid("b"), days.uid("a"))]

    await days.state.finish(run, exported=True)
    (row,) = await days.look_up(1)
    assert (row.change, row.old_uid) == (None, None)
    assert await days.run(2, {}) == []


async def test_the_same_uid_is_no_change(days: Any) -> None:
    """A check that finds nothing new exports nothing."""
    await days.run(0, {1: days.mapped("a")})

    assert await days.run(1, {1: days.mapped("a", due=500)}) == []


async def test_an_opt_out_and_a_return(days: Any) -> None:
    """Who was exported as mapped is OPTED_OUT; who was exported as that is RETURNED."""
    await days.run(0, {1: days.mapped("a")})

    assert await days.run(1, {1: OPTED_OUT}) == [(1, "OPTED_OUT", None, days.uid("a"))]
    assert await days.run(2, {1: INVALID}) == []
    assert await days.run(3, {1: days.mapped("a")}) == [
        (1, "RETURNED", days.uid("a"), None)
    ]


async def test_what_becomes_invalid_is_removed(days: Any) -> None:
    """An identity that the operator calls invalid leaves the audience."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("b")})

    assert await days.run(1, {1: INVALID, 2: MapRow(reason="something new")}) == [
        (1, "REMOVED", None, days.uid("a")),
        (2, "REMOVED", None, days.uid("b")),
    ]
    assert await days.run(2, {1: days.mapped("a")}) == [
        (1, "ADDED", days.uid("a"), None)
    ]


NETS: list[tuple[list[str | None], tuple[str, str | None, str] | None]] = [
    (["b", "a"], None),
    (["b", "c"], ("ROTATED", "c", "a")),
    (["b", None], ("OPTED_OUT", None, "a")),
    ([None, "a"], None),
    ([None, "b"], ("ROTATED", "b", "a")),
    ([None, "b", None], ("OPTED_OUT", None, "a")),
]


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(("steps", "net"), NETS)
async def test_changes_are_netted(
    days: Any,
    steps: list[str | None],
    net: tuple[str, str | None, str] | None,
    exported: bool,
) -> None:
    """To the one between their ends: before a delta, and in the history after it."""
    await days.run(0, {1: days.mapped("a")})
    for day, step in enumerate(steps, 1):
        answer = OPTED_OUT if step is None else days.mapped(step)
        await days.run(day, {1: answer}, export=exported)

    expected = []
    if net is not None:
        change, new, old = net
        expected = [(1, change, new and days.uid(new), days.uid(old))]
    assert await days.history(2) == expected
    if not exported:
        assert await days.run(9, {}) == expected


async def test_who_was_never_exported_is_not_exported_as_gone(days: Any) -> None:
    """Added and opted out before the first delta: there is nothing to say."""
    await days.run(0, {1: days.mapped("a")}, export=False)
    assert await days.run(1, {1: OPTED_OUT}, export=False) == []

    assert await days.run(2, {1: days.mapped("a")}, export=False) == [
        (1, "ADDED", days.uid("a"), None)
    ]


async def test_written_changes_are_left_out(days: Any) -> None:
    """The delta already has their lines, with the keys of the input."""
    run = await days.start_run(0)
    await days.record(run, {number: days.mapped(number) for number in range(600)})
    await days.state.mark_written(EMAIL, [days.identity(n) for n in range(0, 600, 2)])

    assert [number for number, *_ in await days.pending(run)] == list(range(1, 600, 2))
    pages = [page async for page in days.state.pending_changes(limit=2)]
    assert max(map(len, pages)) == 2
    keys = [one.identity for page in pages for one in page]
    assert keys == sorted(days.identity(n) for n in range(1, 600, 2))


async def test_the_history_is_net_of_each_run(days: Any) -> None:
    """What was exported before a run, against what holds now, wherever it began."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("x")})
    await days.run(1, {1: days.mapped("b"), 3: days.mapped("y")})
    await days.run(2, {1: OPTED_OUT, 2: INVALID, 3: days.mapped("z")})
    await days.run(3, {1: days.mapped("c"), 2: days.mapped("x")}, export=False)

    a, b, c, x, y, z = (days.uid(name) for name in "abcxyz")
    assert await days.history(1) == [
        (1, "ADDED", c, None),
        (2, "ADDED", x, None),
        (3, "ADDED", z, None),
    ]
    assert await days.history(2) == [(1, "ROTATED", c, a), (3, "ADDED", z, None)]
    assert await days.history(3) == [(1, "ROTATED", c, b), (3, "ROTATED", z, y)]
    assert await days.history(4) == [(1, "RETURNED", c, None), (2, "ADDED", x, None)]


async def test_the_history_is_kept_for_90_days(days: Any) -> None:
    """A run that is too old or does not exist is refused."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: days.mapped("b")})
    await days.run(2, {1: days.mapped("c")})
    await days.run(91.5, {})

    assert await days.history(3) == [(1, "ROTATED", days.uid("c"), days.uid("b"))]
    for run, reason in ((1, "90 days"), (2, "90 days"), (5, "no run 5"), (0, "no run")):
        with pytest.raises(InputError, match=reason):
            await days.history(run)


async def test_old_history_leaves_the_file(days: Any, on_disk: Any) -> None:
    """UIDs of more than 90 days ago are in no table."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: days.mapped("b")})
    await days.run(2, {1: days.mapped("c")})
    assert days.uid("a").encode() in on_disk()

    await days.run(93, {})

    assert days.uid("a").encode() not in on_disk()
    assert days.uid("b").encode() not in on_disk()


async def test_a_change_of_an_interrupted_run_is_exported_later(days: Any) -> None:
    """A run that resumes after another one's delta loses no change."""
    one = await days.start_run(0, job="one")
    await days.record(one, {1: days.mapped("a")})
    assert await days.run(1, {}) == [(1, "ADDED", days.uid("a"), None)]

    one = await days.start_run(2, job="one")
    await days.record(one, {2: days.mapped("b")})

    assert await days.pending(one) == [(2, "ADDED", days.uid("b"), None)]


async def test_the_views_can_be_queried(days: Any, path: Path) -> None:
    """Raw UIDs without checksums, kinds as words, instants as seconds."""
    await days.run(0, {1: days.mapped("a"), 2: OPTED_OUT})
    await days.run(1, {1: days.mapped("b")})
    run = await days.start_run(2)
    await days.record(run, {1: days.mapped("c"), 3: days.mapped("n")})
    a, b, c = (days.uid(name) for name in "abc")

    with closing(sqlite3.connect(path)) as other:
        mapping = other.execute(
            "SELECT kind, uid, previous_uid, previous_since, refresh_from, reason,"
            " bucket, checked FROM mapping WHERE identity = ?",
            (days.identity(1),),
        ).fetchall()
        changes = other.execute("SELECT * FROM change ORDER BY change").fetchall()
        history = other.execute("SELECT * FROM history").fetchall()
        runs = other.execute("SELECT number, started, ended FROM run").fetchall()

    instants = days.seconds(2), days.seconds(365)
    assert mapping == [("email", c, b, *instants, None, None, days.seconds(2))]
    assert changes == [
        (days.identity(3), "email", "ADDED", days.uid("n"), None),
        (days.identity(1), "email", "ROTATED", c, b),
    ]
    assert history == [(days.identity(1), "email", "ROTATED", a, 2)]
    assert runs == [(n + 1, days.seconds(n), int(n < 2)) for n in range(3)]


async def test_the_views_show_what_the_state_returns(days: Any, path: Path) -> None:
    """Nobody who has opted out has a previous UID, in the view as in the row."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: OPTED_OUT})

    with closing(sqlite3.connect(path)) as other:
        shown = other.execute("SELECT previous_uid, previous_since FROM mapping")
        assert shown.fetchall() == [(None, None)]
    assert (await days.look_up(1))[0].previous_raw_uid is None


async def test_reprs_show_nobody(days: Any) -> None:
    """Neither hash nor UID."""
    await days.run(0, {1: days.mapped("a")})
    run = await days.start_run(1)
    await days.record(run, {1: days.mapped("b")})
    changes = [page async for page in days.state.pending_changes()]
    pages = [page async for page in days.state.export()]

    shown = repr([await days.look_up(1), changes, pages, days.state, run])

    assert days.uid("a") not in shown
    assert days.uid("b") not in shown
    assert repr(days.identity(1))[2:20] not in shown
    assert "ROTATED" in shown


async def test_a_resumed_run_keeps_its_time(days: Any) -> None:
    """So that it writes the same rows again, also after the 90 days of a UID.

    After a day, another run starts: opt-outs and due UIDs must not stay unseen.
    """
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: days.mapped("b")})
    for day, number, previous in ((90.5, 3, "a"), (91.5, 3, "a"), (91.6, 4, None)):
        run = await days.start_run(day, job="one")
        (row,) = await days.look_up(1)
        assert run.number == number
        assert row.previous_raw_uid == (previous and days.uid(previous))
