"""What a delta tells: the difference between what was told and what holds."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async.errors import InputError
from uid2_async.models import MapRow

OPTED_OUT = MapRow(e="optout")
INVALID = MapRow(e="invalid identifier")


async def test_a_new_identity_is_added(days: Any) -> None:
    """Whoever is mapped and was unknown is ADDED; opted out or invalid is no change."""
    await days.run(0, {1: days.mapped("a"), 2: OPTED_OUT, 3: INVALID})

    assert await days.changes() == [(1, "ADDED", days.uid("a"), None)]


async def test_another_uid_is_a_rotation(days: Any) -> None:
    """The delta names the UID that it told before."""
    await days.run(0, {1: days.mapped("a")})

    rows = await days.run(1, {1: days.mapped("b")})

    assert (rows[1].s, rows[1].x, rows[1].o) == (2, "ROTATED", days.uid("a"))
    assert await days.changes(1) == [(1, "ROTATED", days.uid("b"), days.uid("a"))]


async def test_the_same_uid_is_no_change(days: Any) -> None:
    """A check that finds nothing new tells nothing."""
    await days.run(0, {1: days.mapped("a")})

    rows = await days.run(1, {1: days.mapped("a", due=500)})

    assert (rows[1].s, rows[1].x, rows[1].o) == (0, None, None)
    assert await days.changes(1) == []


async def test_an_opt_out_and_a_return(days: Any) -> None:
    """Who was told as mapped is OPTED_OUT; who was told as that is RETURNED."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {1: OPTED_OUT})
    await days.run(2, {1: days.mapped("a")})

    assert await days.changes(1) == [
        (1, "OPTED_OUT", None, days.uid("a")),
        (1, "RETURNED", days.uid("a"), None),
    ]


async def test_what_becomes_invalid_is_removed(days: Any) -> None:
    """An identity that the operator calls invalid leaves the audience."""
    await days.run(0, {1: days.mapped("a"), 2: days.mapped("b")})
    await days.run(1, {1: INVALID, 2: MapRow(e="something new")})
    await days.run(2, {1: days.mapped("a")})

    assert await days.changes(2) == [
        (1, "REMOVED", None, days.uid("a")),
        (2, "REMOVED", None, days.uid("b")),
        (1, "ADDED", days.uid("a"), None),
    ]


@pytest.mark.parametrize(
    ("steps", "net"),
    [
        (["b", "a"], None),
        (["b", "c"], ("ROTATED", "c", "a")),
        (["b", None], ("OPTED_OUT", None, "a")),
        ([None, "a"], None),
        ([None, "b"], ("ROTATED", "b", "a")),
        ([None, "b", None], ("OPTED_OUT", None, "a")),
    ],
)
async def test_untold_changes_are_netted(
    days: Any, steps: list[str | None], net: tuple[str, str | None, str] | None
) -> None:
    """Several changes before a delta become the one between its two ends."""
    await days.run(0, {1: days.mapped("a")})
    for day, step in enumerate(steps, 1):
        answer = OPTED_OUT if step is None else days.mapped(step)
        await days.run(day, {1: answer}, tell=False)

    expected = []
    if net is not None:
        change, new, old = net
        expected = [(1, change, new and days.uid(new), days.uid(old))]
    assert await days.changes(1) == expected
    (row,) = await days.get(await days.begin(9), 1)
    seq = await days.state.last_seq() if expected else 0
    assert (row.s, row.x, row.o) == (
        seq,
        net and net[0],
        net and days.uid(net[2]),
    )


async def test_who_was_never_told_is_not_told_as_gone(days: Any) -> None:
    """Added and opted out before the first delta: there is nothing to tell."""
    await days.run(0, {1: days.mapped("a")}, tell=False)
    await days.run(1, {1: OPTED_OUT}, tell=False)
    assert await days.changes() == []

    await days.run(2, {1: days.mapped("a")}, tell=False)

    assert await days.changes() == [(1, "ADDED", days.uid("a"), None)]


async def test_an_untold_change_is_told_with_each_look_up(days: Any) -> None:
    """It stays in the rows, with its number, until a delta has it."""
    first = await days.run(0, {1: days.mapped("a")}, tell=False)
    run = await days.begin(1)

    assert await days.look_up(run, 1) == [first[1]]
    again = await days.record(run, {1: days.mapped("a")})
    assert (again[1].s, again[1].x) == (1, "ADDED")

    await days.state.finish(run, told_until=1)
    (after,) = await days.look_up(await days.begin(2), 1)
    assert (after.s, after.x) == (0, None)
    assert await days.state.told_seq() == 1


async def test_changes_come_in_pages(days: Any) -> None:
    """They are numbered, and a page begins behind the last one."""
    await days.run(0, {number: days.mapped(number) for number in range(10)})

    pages = [
        [one.seq for one in await days.state.changes(after=after, until=9, limit=4)]
        for after in (0, 4, 8)
    ]

    assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]


async def test_told_changes_are_kept_for_90_days(days: Any) -> None:
    """So that a delta can be written again; untold ones stay longer."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {2: days.mapped("b")}, tell=False)
    await days.run(90.5, {})
    assert await days.changes() == [(2, "ADDED", days.uid("b"), None)]

    await days.run(92, {})

    assert await days.changes() == []


async def test_runs_say_which_changes_are_theirs(days: Any) -> None:
    """A delta since a run begins behind the last change before it."""
    await days.run(0, {1: days.mapped("a")})
    await days.run(1, {2: days.mapped("b")})

    first, second = await days.state.runs()

    assert (first.number, first.after, first.ended) == (1, 0, True)
    assert (second.number, second.after) == (2, 1)
    assert await days.changes(second.after) == [(2, "ADDED", days.uid("b"), None)]


async def test_a_number_that_was_never_given_is_refused(days: Any) -> None:
    """A delta cannot hold a change that does not exist."""
    run = await days.begin(0)

    with pytest.raises(InputError, match="told_until"):
        await days.state.finish(run, told_until=1)


async def test_runs_that_overlap_have_their_own_changes(days: Any) -> None:
    """Each change names the run that recorded it."""
    one = await days.begin(0, job="one")
    two = await days.begin(0, job="two")
    for number, run in enumerate([one, two, two, one]):
        await days.record(run, {number: days.mapped(number)})

    changes = await days.state.changes(after=0, until=9)

    assert [change.run for change in changes] == [1, 2, 2, 1]
