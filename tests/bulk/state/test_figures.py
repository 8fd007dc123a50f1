"""What a report shows of a state: counted, and without a trace of anybody."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from uid2_async.bulk.state_values import AGE_DAYS, DUE_DAYS, OPT_OUT_DAYS
from uid2_async.models import IdentityScope, IdentityType, MapRow

OPTED_OUT = MapRow(reason="optout")
INVALID = MapRow(reason="invalid identifier")
EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE


async def figures(days: Any, day: float) -> Any:
    """Count as of a day."""
    days.now = days.at(day)
    return await days.state.statistics()


async def test_an_empty_state(days: Any) -> None:
    """Nothing is nothing."""
    found = await figures(days, 0)

    assert found.rows == {}
    assert (found.overdue, found.due_later, found.due_by_bucket) == (0, 0, 0)
    assert found.due_days == [0] * DUE_DAYS
    assert found.opt_outs == [0] * OPT_OUT_DAYS
    assert found.ages == [0] * (len(AGE_DAYS) + 1)
    assert found.versions == {}
    assert (found.runs, found.oldest_check) == ([], None)
    assert (found.scope, found.operator) == (None, None)


async def test_statuses(days: Any) -> None:
    """By type and status, as `uid2 state show` has them, but for what is gone."""
    run = await days.start_run(0)
    people = {number: days.mapped(number) for number in range(300)}
    await days.record(run, {**people, 300: OPTED_OUT, 301: INVALID})
    await days.record(run, {0: days.mapped("x"), 1: OPTED_OUT}, PHONE)
    await days.state.finish(run, exported=True)
    await days.start_run(1)
    await days.state.leave_run()
    await days.state.purge(days.key(0), suppress=False)

    found = await figures(days, 1)
    counts = await days.state.statistics()

    assert (found.rows, found.removed) == (counts.rows, 1)
    assert found.rows[EMAIL, "mapped"] == 299
    assert found.rows[PHONE, "mapped"] == 1
    assert (found.scope, len(found.runs)) == (IdentityScope.UID2, 2)
    assert found.operator == "https://operator.example"
    assert found.runs[-1].started == days.seconds(1)


async def test_what_is_due(days: Any) -> None:
    """By day of UTC; what has come is due already, whatever the hour."""
    dues = {1: 9.9, 2: 10.5, 3: 10.51, 4: 11.0, 5: 69.99, 6: 70.0, 7: 400}
    await days.run(0, {who: days.mapped(who, due=due) for who, due in dues.items()})
    await days.run(0.1, {8: MapRow(raw_uid=days.uid(8), bucket_id="b"), 9: OPTED_OUT})

    found = await figures(days, 10.5)

    assert found.overdue == 2
    assert {day: n for day, n in enumerate(found.due_days) if n} == {0: 1, 1: 1, 59: 1}
    assert (found.due_later, found.due_by_bucket) == (2, 1)


async def test_opt_outs_over_time(days: Any) -> None:
    """By the day of the run that saw them; earlier and first ones have no day."""
    await days.run(0, {**{who: days.mapped(who) for who in range(8)}, 8: OPTED_OUT})
    await days.run(5, {0: OPTED_OUT})
    await days.run(95.4, {1: OPTED_OUT, 2: OPTED_OUT, 3: OPTED_OUT, 4: days.mapped(4)})
    await days.run(99, {3: days.mapped(3), 1: OPTED_OUT})

    found = await figures(days, 100)

    assert {ago: n for ago, n in enumerate(found.opt_outs) if n} == {5: 2}
    assert found.opt_outs_before == 2


async def test_ages(days: Any) -> None:
    """A check of a day ago is no more of today, and the oldest is named."""
    for who, day in enumerate((20, 109.9, 169, 170, 193, 198.99, 199, 199.01, 200)):
        await days.run(day, {who: days.mapped(who, due=400)})

    found = await figures(days, 200)

    assert found.ages == [2, 2, 1, 2, 1, 1]
    assert found.oldest_check == days.seconds(20)


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (bytes(32), 2),
        (b"\xff" * 32, 2),
        (b"\x00" + bytes(32), 3),
        (b"\x14" + bytes(32), 3),
        (b"\x20" + bytes(32), 4),
        (b"\xb4" + bytes(32), 4),
        (b"\xe0" + bytes(32), None),
        (b"\x40" + bytes(32), None),
        (b"\x0c" + bytes(32), None),
    ],
)
async def test_versions(days: Any, data: bytes, version: int | None) -> None:
    """The first byte tells it, and the padding where it is version 2."""
    uid = base64.b64encode(data).decode()
    await days.run(
        0, {1: MapRow(raw_uid=uid, refresh_from_s=days.seconds(9)), 2: OPTED_OUT}
    )

    found = await figures(days, 1)

    assert found.versions == {version: 1}


async def test_what_a_job_left_behind_counts(days: Any) -> None:
    """What was recorded and not merged yet is in the figures."""
    run = await days.start_run(0)
    await days.record(run, {1: days.mapped(1)})

    found = await figures(days, 0)

    assert found.rows == {(EMAIL, "mapped"): 1}


async def test_identities_of_any_first_byte_and_size(days: Any) -> None:
    """No part of the state is left out."""
    run = await days.start_run(0)
    identities = [bytes([n]) * size for n in (0, 1, 254, 255) for size in (31, 32, 33)]
    rows = [days.mapped(n) for n in range(len(identities))]
    await days.state.record(run, EMAIL, identities, rows)

    found = await figures(days, 0)

    assert found.rows == {(EMAIL, "mapped"): 12}


async def test_no_figure_names_anybody(days: Any) -> None:
    """Neither in a value nor in the repr."""
    await days.run(0, {1: days.mapped(1), 2: OPTED_OUT})

    shown = repr(await figures(days, 1))

    assert days.uid(1) not in shown
    assert repr(days.identity(1)) not in shown


async def test_everything_is_counted(days: Any) -> None:
    """By type and status, with what is due, pending and how old."""
    run = await days.start_run(0)
    await days.record(run, {0: days.mapped(1, due=1), 1: OPTED_OUT})
    await days.record(run, {2: INVALID, 3: days.mapped(2)}, PHONE)
    await days.state.finish(run, exported=True)
    await days.run(0, {4: days.mapped(4)}, export=False)
    days.now = days.at(1)

    counts = await days.state.statistics()

    assert counts.rows == {
        (EMAIL, "mapped"): 2,
        (EMAIL, "optout"): 1,
        (PHONE, "invalid identifier"): 1,
        (PHONE, "mapped"): 1,
    }
    assert (counts.due, counts.pending, counts.suppressed) == (1, 1, 0)
    assert counts.oldest_check == days.seconds(0)
    assert [run.number for run in counts.runs] == [1, 2]
    assert counts.scope is IdentityScope.UID2
    assert counts.operator == "https://operator.example"
    assert counts.file_bytes > 4096


async def test_an_empty_state_can_be_counted(days: Any) -> None:
    """Before the first run it belongs to nobody."""
    counts = await days.state.statistics()

    assert (counts.rows, counts.scope, counts.oldest_check) == ({}, None, None)
