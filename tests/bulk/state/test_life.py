"""Opening and closing, runs, crashes, locks, places, and files that are not a state."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from uid2_async import MappingState
from uid2_async.bulk.state_db import (
    SCHEMA_VERSION,
    _parse_mounts,
    check_location,
    read_mounts,
)
from uid2_async.errors import ConfigError, JobError
from uid2_async.models import IdentityScope, IdentityType, MapRow

# Records a batch a line, says so, and waits to be killed.
WORKER = """
import asyncio, sys
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from uid2_async import MappingState
from uid2_async.models import IdentityType, MapRow

async def main():
    clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    async with MappingState(sys.argv[1], clock=clock) as state:
        run = await state.start_run(job="first")
        for batch in range(3):
            numbers = range(batch * 10, batch * 10 + 10)
            keys = [sha256(b"%d" % n).digest() for n in numbers]
            row = partial(MapRow, refresh_from_s=4_000_000_000)
            rows = [row(raw_uid="u%043d" % n) for n in range(10)]
            await state.record(run, IdentityType.EMAIL, keys, rows)
            print(batch, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_files_are_private(path: Path, of: Any, umask: Any) -> None:
    """0600 whatever the umask, and whatever a file of that name was before."""
    umask(0)
    path.touch(mode=0o644)  # noqa: ASYNC240 - nothing else runs
    days = of(path)
    async with days.state:
        run = await days.start_run(0)
        await days.record(run, {1: MapRow(reason="optout")})
        await days.state.stage(IdentityType.EMAIL, [days.identity(1)])
        modes = {one.name: one.stat().st_mode for one in path.parent.iterdir()}

    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o600}
    assert len(modes) == 5


async def test_closing_is_idempotent_and_final(path: Path, of: Any) -> None:
    """A closed state refuses, and can be opened again."""
    days = of(path)
    async with days.state as state:
        await days.run(0, {1: MapRow(reason="optout")})
        assert repr(state) == f"<MappingState {str(path)!r} open>"
        with pytest.raises(JobError, match="already open"):
            await state.__aenter__()
    await state.aclose()
    assert (state.is_open, state.path) == (False, path)
    with pytest.raises(JobError, match="not open"):
        await state.runs()
    assert {one.name for one in path.parent.iterdir()} == {
        "people.db",
        "people.db.lock",
    }

    async with state:
        assert [run.number for run in await state.runs()] == [1]


class SlowToClose(sqlite3.Connection):
    """A connection that closes when it is let."""

    gate = threading.Event()

    def close(self) -> None:
        """Wait, and close."""
        self.gate.wait(30)
        super().close()


class SlowState(MappingState):
    """A state that takes its time to close."""

    _connection_factory = SlowToClose


async def test_a_state_is_opened_again_after_its_last_closing(path: Path) -> None:
    """Closing that was cancelled still ends first, and never closes the new opening."""
    state = SlowState(path)
    await state.__aenter__()
    SlowToClose.gate.clear()
    closing = asyncio.create_task(state.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    opening = asyncio.create_task(state.__aenter__())
    await asyncio.sleep(0)
    assert not opening.done()
    SlowToClose.gate.set()
    await opening

    assert await state.runs() == []
    await state.aclose()


async def test_a_state_belongs_to_one_operator_and_scope(days: Any) -> None:
    """UIDs of another are other UIDs."""
    await days.start_run(0)

    for options in ({"scope": IdentityScope.EUID}, {"operator": "https://other"}):
        with pytest.raises(JobError, match="belongs to another"):
            await days.start_run(0, **options)
    assert len(await days.state.runs()) == 1


async def test_a_job_resumes_its_run(days: Any) -> None:
    """Same number, same time, until it is finished; other jobs have their own."""
    run = await days.start_run(0, job="one", segment="a")

    assert await days.start_run(3, job="one") == run
    assert (await days.start_run(3, job="two")).number == 2
    assert (await days.start_run(3, job="one")).number == 1
    await days.state.finish(run, exported=False)
    assert (await days.start_run(4, job="one")).number == 3
    assert (await days.start_run(4)).number == 4
    assert (await days.start_run(4)).number == 5


async def test_files_that_are_done_stay_done(days: Any) -> None:
    """Until their run is finished; those of other runs are not mixed up."""
    run = await days.start_run(0, job="one")
    other = await days.start_run(0, job="two")
    for name, detail in (("b", "1"), ("a", "2"), ("b", "3")):
        await days.state.set_file_done(run, name, detail)
    await days.state.set_file_done(other, "c", "4")

    resumed = await days.start_run(1, job="one")
    assert await days.state.files_done(resumed) == {"a": "2", "b": "3"}
    await days.state.finish(run, exported=False)
    assert await days.state.files_done(run) == {}
    assert await days.state.files_done(other) == {"c": "4"}


async def test_a_killed_process_loses_nothing(path: Path, of: Any) -> None:
    """What record() has returned is there, and its run can be resumed."""
    command = [sys.executable, "-c", WORKER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:  # noqa: ASYNC220, S603 - our own script
        assert worker.stdout is not None
        for _ in range(3):
            worker.stdout.readline()
        with pytest.raises(JobError, match=f"process {worker.pid}"):
            await MappingState(path).__aenter__()
        worker.send_signal(signal.SIGKILL)

    days = of(path)
    async with days.state:
        run = await days.start_run(2, job="first")
        assert (run.number, run.started) == (1, days.seconds(0))
        assert None not in await days.look_up(*range(30))
        assert [number for number, *_ in await days.pending(run)] == list(range(30))


async def test_a_second_one_is_refused(days: Any, path: Path) -> None:
    """In the same process, too; the holder is named."""
    with pytest.raises(JobError, match=f"process {os.getpid()}"):
        await MappingState(path).__aenter__()


async def test_a_power_cut_takes_nothing_that_was_recorded(
    days: Any, path: Path, of: Any, tmp_path: Path
) -> None:
    """Whatever is lost of the log: the state is that of a commit that was synced."""
    run = await days.start_run(0, job="one")
    sizes = []
    wal = path.with_name("people.db-wal")
    for number in range(12):
        await days.record(run, {number: days.mapped(number)})
        sizes.append(wal.stat().st_size)
    data = wal.read_bytes()
    dice = random.Random(1)  # noqa: S311 - where to cut

    for trial, size in enumerate([*sizes, *dice.choices(range(len(data)), k=20)]):
        folder = tmp_path / str(trial)
        folder.mkdir(mode=0o700)
        shutil.copy(path, folder / "people.db")
        # After a power cut the end of a file may be missing, or be anything.
        junk = dice.randbytes(4096) if trial % 2 else b""
        (folder / "people.db-wal").write_bytes(data[:size] + junk)
        after = of(folder / "people.db")
        async with after.state:
            resumed = await after.start_run(1, job="one")
            found = [number for number, *_ in await after.pending(resumed)]
        safe = sum(one <= size for one in sizes)
        assert found == list(range(len(found)))
        assert len(found) >= safe


async def test_commits_are_synced(days: Any) -> None:
    """FULL: each commit is on the disk before record() returns."""
    synchronous, journal = await days.state._call(
        lambda db: [
            db.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode")
        ]
    )

    assert (synchronous, journal) == (2, "wal")


def make_other_database(path: Path) -> None:
    """Make a database of something else."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE people (name TEXT)")
        other.commit()


def make_table_of_files(path: Path) -> None:
    """Make a file that is no database."""
    path.write_bytes(b"email\nuser@example.com\n" * 100)


def set_version(version: int) -> Callable[[Path], None]:
    """Return what makes a state of another schema."""

    def make(path: Path) -> None:
        asyncio.run(open_and_close(path))
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"PRAGMA user_version = {version}")
            other.execute("PRAGMA journal_mode = DELETE")

    return make


async def open_and_close(path: Path) -> None:
    """Make an empty state."""
    async with MappingState(path):
        pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_table_of_files, "damaged, or it is not a state"),
        (make_other_database, "not a state of bulk mapping"),
        (set_version(SCHEMA_VERSION + 1), "a newer version"),
        (set_version(SCHEMA_VERSION - 1), "an older version"),
    ],
)
def test_other_files_are_refused(
    path: Path, on_disk: Any, make: Callable[[Path], None], reason: str
) -> None:
    """Each with its reason and a hint. Nothing is changed: neither mode nor folder."""
    make(path)
    path.with_name("people.db.lock").unlink(missing_ok=True)
    path.chmod(0o644)
    before = on_disk("people.db")

    with pytest.raises(JobError, match=reason) as caught:
        asyncio.run(open_and_close(path))

    assert on_disk("people.db") == before
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == ["people.db"]
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_who_stops_waiting_stops_nothing_half_way(path: Path, of: Any) -> None:
    """A cancelled call is done or not, and the state is released in any case."""
    days = of(path)
    opening = asyncio.create_task(days.state.__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    while not days.state.is_open:
        try:
            await days.state.__aenter__()
        except JobError as error:
            assert "locked" in error.message  # noqa: PT017 - until it is closed
    run = await days.start_run(0)
    recording = asyncio.create_task(days.record(run, {1: days.mapped("a")}))
    other = asyncio.create_task(days.record(run, {2: days.mapped("b")}))
    await asyncio.sleep(0)
    recording.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recording
    await other
    await days.state.aclose()
    async with days.state:
        assert [row is not None for row in await days.look_up(1, 2)] == [True, True]


async def test_an_error_reaches_all_who_share_a_commit(days: Any) -> None:
    """Each gets an exception of its own; what was recorded before is kept."""
    run = await days.start_run(0)
    await days.record(run, {1: days.mapped("a")})
    await days.state._call(
        lambda db: db.connection.execute("PRAGMA max_page_count = 40").fetchall()
    )
    many = {number: days.mapped(number) for number in range(2_000, 9_900)}
    calls = [days.record(run, many), days.record(run, {2: days.mapped("b")})]

    errors = await asyncio.gather(*calls, return_exceptions=True)

    assert all("no disk space" in str(error) for error in errors)
    assert errors[0] is not errors[1]
    assert [row is None for row in await days.look_up(1, 2, 2_000)] == [0, 1, 1]
    await days.state._call(
        lambda db: db.connection.execute("PRAGMA max_page_count = 4000").fetchall()
    )
    await days.record(run, many)
    assert (await days.look_up(2_000))[0] is not None


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Missing, writable for others, or a link or a folder in the place of a file."""
    with pytest.raises(JobError, match="No such file"):
        check_location(tmp_path / "no" / "people.db", [])

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(JobError, match="other users"):
        check_location(shared / "people.db", [])
    check_location(shared / "people.db", [], allow_shared=True)
    shared.chmod(0o1777)
    check_location(shared / "people.db", [])
    for suffix in ("", "-wal", "-shm", "-journal", "-staging"):
        link = shared / f"people.db{suffix}"
        link.symlink_to(shared / "other")
        with pytest.raises(JobError, match="a link or not a file"):
            check_location(shared / "people.db", [])
        link.unlink()
    with pytest.raises(JobError, match="a link or not a file"):
        check_location(shared, [])


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", "-staging", ".lock"])
def test_a_state_is_not_named_like_a_file_of_another(
    tmp_path: Path, suffix: str
) -> None:
    """The other state would delete or empty it."""
    with pytest.raises(JobError, match="belongs to another state"):
        check_location(tmp_path / f"people.db{suffix}", [])


async def test_a_shared_folder_can_be_accepted(path: Path) -> None:
    """By who knows that all users of the machine are trusted."""
    path.parent.chmod(0o777)
    with pytest.raises(JobError, match="allow shared folders"):
        await MappingState(path).__aenter__()

    async with MappingState(path, shared_folders=True) as state:
        assert state.is_open


def test_a_file_of_another_user_is_refused(path: Path, unprivileged: None) -> None:
    """Somebody put it there, in a folder that all can write to."""
    os.seteuid(0)
    if os.getuid() != 0:
        pytest.skip("only root can make files of others")
    path.write_bytes(b"")
    path.parent.chmod(0o1777)
    path.parent.parent.chmod(0o755)
    os.seteuid(65534)

    with pytest.raises(JobError, match=r"another user|Permission denied"):
        check_location(path, [])


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
        check_location(path, mounts)

    check_location(path, [*mounts, (str(path.parent.resolve()), "xfs")])
    check_location(path, [])


async def test_a_program_that_writes_is_waited_for_and_then_named(
    days: Any, path: Path
) -> None:
    """Nobody else should write; the job must not hang because of it."""
    await days.start_run(0)
    await days.state._call(
        lambda db: db.connection.execute("PRAGMA busy_timeout = 1").fetchall()
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobError, match="Another program holds a lock"):
            await days.start_run(1)

    assert (await days.start_run(1)).number == 2


async def test_what_is_asked_during_closing_is_refused(path: Path) -> None:
    """It comes too late, and the error says so."""
    async with MappingState(path) as state:
        closing_ = asyncio.create_task(state.aclose())
        await asyncio.sleep(0)
        with pytest.raises(JobError, match="closed"):
            await state.runs()
        await closing_


def test_a_recheck_takes_time(path: Path) -> None:
    """An interval of nothing would ask about everything again and again."""
    for name in ("recheck_after", "optout_recheck", "invalid_recheck"):
        with pytest.raises(ConfigError, match="at least one second"):
            MappingState(path, **{name: timedelta(0)})
