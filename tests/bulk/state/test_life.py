"""Opening and closing, runs, crashes, locks, and files that are no state."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from uid2_async import MappingState
from uid2_async.bulk.state.location import (
    StateLock,
    _parse_mounts,
    check_place,
    read_mounts,
)
from uid2_async.bulk.state.store import Cadence, Store
from uid2_async.errors import ConfigError, JobError
from uid2_async.models import IdentityScope, MapRow

CADENCE = Cadence.of(timedelta(days=7), timedelta(days=30), timedelta(days=180))

# Records a batch a line, says so, and waits to be killed.
WORKER = """
import asyncio, sys
from datetime import UTC, datetime
from hashlib import sha256
from uid2_async import IdentityScope, MappingState
from uid2_async.models import IdentityType, MapRow

async def main():
    async with MappingState(sys.argv[1]) as state:
        run = await state.begin(
            scope=IdentityScope.UID2, operator="https://operator.example",
            now=datetime(2026, 1, 1, tzinfo=UTC), job="first",
        )
        for batch in range(3):
            numbers = range(batch * 10, batch * 10 + 10)
            keys = [sha256(b"%d" % n).digest() for n in numbers]
            rows = [MapRow(u="u%043d" % n, r=4_000_000_000) for n in range(10)]
            await state.record(run, [IdentityType.EMAIL] * 10, keys, rows)
            print(batch, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_file_is_private(path: Path, of: Any) -> None:
    """0600 whatever the umask, as are the files beside it."""
    old = os.umask(0)
    try:
        async with MappingState(path) as state:
            await of(state).run(0, {1: MapRow(e="optout")})
            modes = {one.stat().st_mode for one in path.parent.iterdir()}
    finally:
        os.umask(old)

    assert {stat.S_IMODE(mode) for mode in modes} == {0o600}


async def test_closing_is_idempotent_and_final(path: Path, of: Any) -> None:
    """A closed state refuses, and can be opened again."""
    state = MappingState(path)
    async with state:
        await of(state).run(0, {1: MapRow(e="optout")})
        with pytest.raises(JobError, match="open already"):
            await state.__aenter__()
    await state.aclose()
    with pytest.raises(JobError, match="not open"):
        await state.told_seq()
    assert not path.with_name(path.name + "-wal").exists()

    async with state:
        assert [run.number for run in await state.runs()] == [1]


async def test_a_state_belongs_to_one_operator_and_scope(days: Any) -> None:
    """UIDs of another are other UIDs."""
    await days.begin(0)

    for scope, operator in (
        (IdentityScope.EUID, "https://operator.example"),
        (IdentityScope.UID2, "https://other.example"),
    ):
        with pytest.raises(JobError, match="belongs to another"):
            await days.state.begin(scope=scope, operator=operator, now=days.at(0))


async def test_a_job_goes_on_with_its_run(days: Any) -> None:
    """Same number, same time, until it is finished; other jobs have their own."""
    run = await days.begin(0, job="one")

    assert await days.begin(3, job="one") == run
    assert (await days.begin(3, job="two")).number == 2
    await days.state.finish(run, told_until=None)
    assert (await days.begin(4, job="one")).number == 3


async def test_a_killed_process_loses_nothing(path: Path, of: Any) -> None:
    """What record() has returned is there; so are its changes, once each."""
    command = [sys.executable, "-c", WORKER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:  # noqa: ASYNC220, S603 - our own script
        assert worker.stdout is not None
        for _ in range(3):
            worker.stdout.readline()
        with pytest.raises(JobError, match=f"process {worker.pid}"):
            await MappingState(path).__aenter__()
        worker.send_signal(signal.SIGKILL)

    async with MappingState(path) as state:
        days = of(state)
        run = await days.begin(2, job="first")
        assert run.number == 1
        assert run.started == days.seconds(0)
        assert None not in await days.look_up(run, *range(30))
        changes = await days.changes()
        assert [(number, change) for number, change, _, _ in changes] == [
            (number, "ADDED") for number in range(30)
        ]
        assert await state.last_seq() == 30


async def test_a_second_object_is_locked_out(days: Any, path: Path) -> None:
    """In the same process, too; and what is open is not disturbed."""
    with pytest.raises(JobError, match="in use") as caught:
        await MappingState(path).__aenter__()

    assert caught.value.__context__ is None
    await days.run(0, {1: MapRow(e="optout")})


def make_table_of_files(path: Path) -> None:
    """Make a file that is no database."""
    path.write_bytes(b"INPUT,INPUT_TYPE\n" * 1000)


def make_other_database(path: Path) -> None:
    """Make a database of somebody else."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE people (name)")


def make_newer_state(path: Path) -> None:
    """Make a state of a version that does not exist yet."""
    Store(path, CADENCE).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")


def make_damaged_state(path: Path) -> None:
    """Make a state and overwrite all its pages but the first two."""
    Store(path, CADENCE).close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_table_of_files, "damaged, or no state"),
        (make_other_database, "no state of bulk mapping"),
        (make_newer_state, "newer version"),
        (make_damaged_state, "damaged"),
    ],
)
async def test_other_files_are_refused(
    path: Path, on_disk: Any, make: Callable[[Path], None], reason: str
) -> None:
    """Each with its reason, and none of them is changed."""
    make(path)
    before = on_disk("people.db")

    with pytest.raises(JobError, match=reason) as caught:
        await MappingState(path).__aenter__()

    assert on_disk("people.db") == before
    assert caught.value.__cause__ is None


async def test_a_full_disk_loses_nothing(path: Path, of: Any) -> None:
    """What was recorded before is there, and the rest can be recorded later."""
    async with MappingState(path) as state:
        days = of(state)
        run = await days.begin(0)
        await days.record(run, {1: days.mapped("a")})
        await state._ask(
            lambda store: store.connection.execute(
                "PRAGMA max_page_count = 40"
            ).fetchall()
        )
        many = {number: days.mapped(number) for number in range(1000, 9000)}
        with pytest.raises(JobError, match="no room"):
            await days.record(run, many)
        assert await days.look_up(run, 1, 1000) != [None, None]

    async with MappingState(path) as state:
        days = of(state)
        run = await days.begin(0)
        (known, unknown) = await days.look_up(run, 1, 1000)
        assert (known.u, unknown) == (days.uid("a"), None)
        await days.record(run, many)
        assert await state.last_seq() == 8001


async def test_who_stops_waiting_stops_nothing_half_way(path: Path, of: Any) -> None:
    """A cancelled call is done or not, and the state is let go of in any case."""
    state = MappingState(path)
    opening = asyncio.create_task(state.__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    while True:
        try:
            await state.__aenter__()
            break
        except JobError as error:
            assert "in use" in error.message  # noqa: PT017 - until it is closed
    days = of(state)
    run = await days.begin(0)
    recording = asyncio.create_task(days.record(run, {1: days.mapped("a")}))
    await asyncio.sleep(0)
    recording.cancel()
    closing_ = asyncio.create_task(state.aclose())
    with pytest.raises(asyncio.CancelledError):
        await recording
    await closing_
    async with MappingState(path) as again:
        days = of(again)
        (row,) = await days.look_up(await days.begin(0), 1)
        assert await again.last_seq() == (0 if row is None else 1)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Missing, writable for others, or a link or a folder in the place of the file."""
    with pytest.raises(JobError, match="does not exist"):
        check_place(tmp_path / "no" / "people.db", [])

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(JobError, match="writable"):
        check_place(shared / "people.db", [])
    shared.chmod(0o1777)
    check_place(shared / "people.db", [])

    link = tmp_path / "link.db"
    link.symlink_to(shared / "people.db")
    for path in (link, shared):
        with pytest.raises(JobError, match="link or no file"):
            check_place(path, [])


def test_a_lock_that_is_a_link_is_refused(path: Path) -> None:
    """Somebody wants another file to be written to."""
    path.with_name("people.db.lock").symlink_to(path)

    with pytest.raises(JobError, match="is a link"):
        StateLock(path)


def test_a_damaged_lock_is_refused(path: Path) -> None:
    """With what is in the way, and not as a damaged state."""
    path.with_name("people.db.lock").write_bytes(b"x" * 5000)

    with pytest.raises(JobError, match="lock is damaged"):
        StateLock(path)


def test_mounts_are_read() -> None:
    """Where Linux lists them, the root is among them; in a chroot it may be none."""
    if sys.platform == "linux":
        assert dict(read_mounts()).keys() & {"/", "/proc"}
    assert list(
        _parse_mounts([r"1 2 0:3 / /a\040b rw,noatime shared:1 - nfs4 x rw"])
    ) == [("/a b", "nfs4")]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "smb3"])
def test_network_file_systems_are_refused(path: Path, kind: str) -> None:
    """Where SQLite's locks cannot be relied on, by the closest mount point."""
    mounts = [("/", "ext4"), (str(path.parent.parent.resolve()), kind)]

    with pytest.raises(JobError, match=kind):
        check_place(path, mounts)

    check_place(path, [*mounts, (str(path.parent.resolve()), "xfs")])
    check_place(path, [])


async def test_a_program_that_writes_is_waited_for_and_then_named(
    days: Any, path: Path
) -> None:
    """Nobody else should; the job is not to hang because of it."""
    await days.begin(0)
    await days.state._ask(
        lambda store: store.connection.execute("PRAGMA busy_timeout = 1").fetchall()
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobError, match="Another program holds a lock"):
            await days.begin(1)

    assert (await days.begin(1)).number == 2


async def test_other_errors_name_no_values(days: Any) -> None:
    """SQLite's own word for them is enough."""
    with pytest.raises(JobError, match=r"could not be used \(SQLITE_ERROR\)") as caught:
        await days.state._ask(lambda store: store.connection.execute("SELECT no"))

    assert caught.value.__context__ is None
    with pytest.raises(JobError, match="No such file"):
        await days.state._ask(lambda _: Path("/nowhere/at/all").read_bytes())


async def test_what_is_asked_during_closing_is_refused(path: Path) -> None:
    """It comes too late, and is told so."""
    async with MappingState(path) as state:
        closing_ = asyncio.create_task(state.aclose())
        await asyncio.sleep(0)
        with pytest.raises(JobError, match="closed"):
            await state.told_seq()
        await closing_


def test_a_recheck_takes_time(path: Path) -> None:
    """A duration of nothing would ask for everything again and again."""
    with pytest.raises(ConfigError, match="recheck"):
        MappingState(
            path,
            recheck_after=MappingState.__init__.__kwdefaults__["recheck_after"] * 0,
        )
