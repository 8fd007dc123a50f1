"""What the state says of an identity, and when it says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async.errors import InputError
from uid2_async.models import IdentityType, MapRow

OPTED_OUT = MapRow(e="optout")
INVALID = MapRow(e="invalid identifier")
EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE


async def test_what_is_unknown_must_be_asked(days: Any) -> None:
    """None stands for it, in the order of the question."""
    await days.run(0, {1: days.mapped("a")})
    run = await days.begin(1)

    found = await days.look_up(run, 2, 1, 3, 1)

    assert [row and row.u for row in found] == [
        None,
        days.uid("a"),
        None,
        days.uid("a"),
    ]


async def test_what_is_due_must_be_asked(days: Any) -> None:
    """refresh_from is the first second in which the UID may be another."""
    await days.run(0, {1: days.mapped("a", due=2)})

    assert await days.look_up(await days.begin(1.99), 1) != [None]
    assert await days.look_up(await days.begin(2), 1) == [None]
    assert await days.get(await days.begin(2), 1) != [None]


@pytest.mark.parametrize(
    ("answer", "known", "asked"),
    [
        (MapRow(u="u" * 44, r=4_000_000_000), 6.9, 7),
        (MapRow(u="u" * 44, bucket_id="b"), 6.9, 7),
        (OPTED_OUT, 29.9, 30),
        (INVALID, 179.9, 180),
        (MapRow(e="something new"), 6.9, 7),
        (MapRow(), 6.9, 7),
    ],
)
async def test_what_was_not_checked_for_too_long_must_be_asked(
    days: Any, answer: MapRow, known: float, asked: float
) -> None:
    """A week for what is mapped, a month for opt-outs, half a year for invalid ones."""
    await days.run(0, {1: answer})

    assert await days.look_up(await days.begin(known), 1) != [None]
    assert await days.look_up(await days.begin(asked), 1) == [None]


async def test_what_was_asked_in_this_run_is_not_asked_again(days: Any) -> None:
    """Not even if the operator says that it is due already."""
    run = await days.begin(0)

    rows = await days.record(run, {1: days.mapped("a", due=-1)})

    assert await days.look_up(run, 1) == [rows[1]]


async def test_the_replaced_uid_is_the_previous_one(days: Any) -> None:
    """Where the operator names none; 90 days after it was noticed it is gone."""
    await days.run(0, {1: days.mapped("a")})
    rows = await days.run(10, {1: days.mapped("b")})
    assert rows[1].p == days.uid("a")

    again = await days.run(99.9, {1: days.mapped("b")})
    assert again[1].p == days.uid("a")
    (seen,) = await days.get(await days.begin(100), 1)
    assert seen.p is None
    late = await days.run(100, {1: days.mapped("b")})
    assert late[1].p is None


async def test_the_operator_s_previous_uid_comes_first(days: Any) -> None:
    """It knows of rotations that the state did not see."""
    await days.run(0, {1: days.mapped("a")})

    rows = await days.run(1, {1: days.mapped("c", prev=days.uid("b"))})

    assert rows[1].p == days.uid("b")


async def test_an_old_uid_leaves_the_file(days: Any, on_disk: Any) -> None:
    """What is hidden after 90 days is deleted, for opted-out persons, too."""
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

    rows = await days.run(1, {1: OPTED_OUT})

    row = rows[1]
    assert (row.u, row.p, row.r, row.e) == (None, None, None, "optout")


async def test_identities_of_other_sizes_are_kept_apart(days: Any) -> None:
    """Hashes of 31 and 33 bytes exist, and e-mails and phones with the same one."""
    run = await days.begin(0)
    keys = [b"k" * 32, b"k" * 31, b"k" * 33, b"k" * 32]
    kinds = [EMAIL, EMAIL, PHONE, PHONE]
    answers = [days.mapped(number) for number in range(4)]

    rows = await days.state.record(run, kinds, keys, answers)

    assert [row.u for row in rows] == [answer.u for answer in answers]
    for finished in (False, True):
        if finished:
            await days.state.finish(run, told_until=None)
        assert await days.state.look_up(run, EMAIL, keys) == [
            rows[0],
            rows[1],
            None,
            rows[0],
        ]
        assert await days.state.look_up(run, PHONE, keys) == [
            rows[3],
            None,
            rows[2],
            rows[3],
        ]


async def test_twice_in_one_call_is_once_in_the_state(days: Any) -> None:
    """The last answer holds, and there is one change."""
    run = await days.begin(0)

    rows = await days.state.record(
        run,
        [EMAIL] * 2,
        [days.identity(1)] * 2,
        [days.mapped("a"), days.mapped("b")],
    )

    assert [row.u for row in rows] == [days.uid("b")] * 2
    assert await days.changes() == [(1, "ADDED", days.uid("b"), None)]


async def test_salt_buckets_are_kept(days: Any) -> None:
    """The old API names them, and their rows say when to ask again."""
    rows = await days.run(0, {1: MapRow(u=days.uid("a"), bucket_id="b1")})

    assert (rows[1].bucket_id, rows[1].r) == ("b1", None)
    assert await days.get(await days.begin(1), 1) == [
        rows[1].__class__(u=days.uid("a"), bucket_id="b1", c=rows[1].c)
    ]


async def test_arguments_of_different_lengths_are_refused(days: Any) -> None:
    """Nothing is recorded under somebody else's identity."""
    run = await days.begin(0)

    with pytest.raises(InputError, match="one row for each identity"):
        await days.state.record(run, [EMAIL], [days.identity(1)], [])


async def test_no_repr_shows_whom_it_is_about(days: Any) -> None:
    """Neither hash nor UID."""
    await days.run(0, {1: days.mapped("a")})
    rows = await days.run(1, {1: days.mapped("b")}, tell=False)
    changes = await days.state.changes(after=0, until=9)
    (page,) = [page async for page in days.state.export(now=days.at(1))]

    shown = repr([rows, changes, page, days.state])

    assert days.uid("a") not in shown
    assert days.uid("b") not in shown
    assert repr(days.identity(1))[2:20] not in shown
    assert "ROTATED" in shown
