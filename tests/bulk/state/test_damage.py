"""A damaged file: an error of ours, and never a wrong raw UID."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from uid2_async.errors import JobError
from uid2_async.models import IdentityType, MapRow

EMAIL = IdentityType.EMAIL
PAGE = 16_384
VARIANTS = 60


async def build(days: Any) -> None:
    """Make a state in which every table has rows."""
    async with days.state:
        await days.full(0, range(300))
        answers = {n: days.mapped(("r", n)) for n in range(0, 100, 3)}
        await days.run(1, {**answers, 1: MapRow(reason="optout")})
        answers = {n: days.mapped(("s", n), prev=days.uid(n)) for n in range(50)}
        await days.run(2, answers, export=False)
        await days.state.purge(days.key(7))


async def use(days: Any) -> list[Any]:
    """Do all there is to do, and return the rows and changes."""
    state = days.state
    async with state:
        run = await days.start_run(9)
        rows = [
            (key, row.raw_uid) async for page in state.export() for key, row in page
        ]
        found: list[Any] = [rows, await days.pending(run), await days.history(2)]
        await days.look_up(*range(300))
        await state.statistics()
        await state.stage(EMAIL, [days.identity(n) for n in range(310)])
        asked = await days.to_ask(run)
        await days.record(run, {n: days.mapped(("q", n)) for n in asked[:20]})
        await state.remove_absent(run, "all", 1)
        await state.finish(run, exported=True)
        await state.purge(days.uid(3), kind="raw_uid")
    return found


def damage(data: bytes, dice: random.Random) -> bytes:
    """Flip a bit, overwrite or swap pages, or cut the file."""
    content = bytearray(data)
    place = dice.randrange(len(content))
    page = slice(place // PAGE * PAGE, place // PAGE * PAGE + PAGE)
    match dice.randrange(5):
        case 0:
            content[page] = dice.randbytes(PAGE)
        case 1:
            content[page] = bytes(PAGE)
        case 2:
            del content[place:]
        case 3:
            other = slice(PAGE, 2 * PAGE)
            content[page], content[other] = content[other], content[page]
        case _:
            content[place] ^= 1 << dice.randrange(8)
    return bytes(content)


async def test_damage_is_a_job_error(
    path: Path, of: Any, tmp_path: Path, on_disk: Any
) -> None:
    """No foreign exception, wherever the damage is, and no UID but the right one."""
    await build(of(path))
    whole = on_disk("people.db")
    expected = await use(of(path))
    uids = dict(expected[0])
    refused = 0
    for variant in range(VARIANTS):
        folder = tmp_path / "damaged"
        folder.mkdir(mode=0o700)
        dice = random.Random(variant)  # noqa: S311 - where the damage is
        (folder / "people.db").write_bytes(damage(whole, dice))
        try:
            rows, pending, _ = await use(of(folder / "people.db"))
        except JobError as error:
            assert error.__context__ is None  # noqa: PT017 - all of them are looked at
            refused += 1
        else:
            assert all(uids.get(key, uid) == uid for key, uid in rows)
            assert {uid for _, _, *both in pending for uid in both} <= {
                uid for _, _, *both in expected[1] for uid in both
            }
        shutil.rmtree(folder)
    assert refused > VARIANTS / 3


@pytest.mark.parametrize("who", ["current", "previous", "exported"])
async def test_a_flipped_bit_in_a_uid_is_noticed(path: Path, of: Any, who: str) -> None:
    """Whatever it is: the UID itself, the one before it, or the one of the delta."""
    days = of(path)
    uids = {name: days.uid(name) for name in ("exported", "previous", "current")}
    async with days.state:
        await days.run(0, {1: days.mapped("exported"), 2: days.mapped("x")})
        answer = days.mapped("current", prev=days.uid("previous"))
        await days.run(1, {1: answer}, export=False)
    data = path.read_bytes()  # noqa: ASYNC240 - nothing else runs
    place = data.index(uids[who].encode())
    for bit in range(8):
        changed = bytearray(data)
        changed[place + 5 * bit] ^= 1 << bit
        path.write_bytes(changed)  # noqa: ASYNC240 - nothing else runs
        async with days.state:
            run = await days.start_run(2)
            with pytest.raises(JobError, match=r"damaged"):
                await days.look_up(1)
            assert await days.look_up(2) != [None]
            with pytest.raises(JobError, match=r"damaged"):
                [page async for page in days.state.export()]
            if who != "previous":
                with pytest.raises(JobError, match=r"damaged"):
                    await days.pending(run)
