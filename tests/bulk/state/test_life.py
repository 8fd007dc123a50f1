"""Opening and closing, runs, crashes, locks, and files that are no state."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uid2_async import MappingState
from uid2_async.bulk.state.location import check_place
from uid2_async.errors import ConfigError, JobError
from uid2_async.models import IdentityScope, MapRow

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
            keys = [sha256(b"%d" % n).digest() for n in range(batch * 10, batch * 10 + 10)]
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


async def test_other_files_are_refused(path: Path) -> None:
    """No database, another one, a newer one, a damaged one: each with its reason."""
    path.write_bytes(b"INPUT,INPUT_TYPE\n" * 1000)
    with pytest.raises(JobError, match="damaged, or no state"):
        await MappingState(path).__aenter__()
    assert path.read_bytes().startswith(b"INPUT")

    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE people (name)")
    other.close()
    with pytest.raises(JobError, match="no state of bulk mapping"):
        await MappingState(path).__aenter__()

    path.unlink()
    async with MappingState(path):
        pass
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(JobError, match="newer version"):
        await MappingState(path).__aenter__()


async def test_a_damaged_state_is_refused(path: Path, of: Any) -> None:
    """A broken page is an error, and no empty answer."""
    async with MappingState(path) as state:
        days = of(state)
        await days.run(0, {n: MapRow(u="u" * 44) for n in range(1000)})
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)

    with pytest.raises(JobError, match="damaged"):
        async with MappingState(path) as state:
            days = of(state)
            await days.get(await days.begin(1), 1)


async def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Missing, writable for others, or a link in the place of the file."""
    with pytest.raises(JobError, match="does not exist"):
        await MappingState(tmp_path / "no" / "people.db").__aenter__()

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(JobError, match="writable"):
        await MappingState(shared / "people.db").__aenter__()
    shared.chmod(0o1777)
    async with MappingState(shared / "people.db"):
        pass

    link = tmp_path / "link.db"
    link.symlink_to(shared / "people.db")
    with pytest.raises(JobError, match="link"):
        await MappingState(link).__aenter__()
    with pytest.raises(JobError, match="link or no file"):
        await MappingState(tmp_path / "shared").__aenter__()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "smb3"])
def test_network_file_systems_are_refused(path: Path, kind: str) -> None:
    """Where SQLite's locks cannot be relied on, by the closest mount point."""
    mounts = [("/", "ext4"), (str(path.parent.parent.resolve()), kind)]

    with pytest.raises(JobError, match=kind):
        check_place(path, mounts)

    check_place(path, [*mounts, (str(path.parent.resolve()), "xfs")])
    check_place(path, [])


async def test_a_recheck_takes_time(path: Path) -> None:
    """A duration of nothing would ask for everything again and again."""
    with pytest.raises(ConfigError, match="recheck"):
        MappingState(
            path,
            recheck_after=MappingState.__init__.__kwdefaults__["recheck_after"] * 0,
        )
