from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from uid2_async.bulk.private_files import Disk, FileLock
from uid2_async.errors import JobError

Process: TypeAlias = "subprocess.Popen[str]"

OWNER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from uid2_async.bulk.private_files import FileLock

lock = FileLock(Path(sys.argv[1]), now=datetime(2026, 11, 25, tzinfo=UTC))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Start a process that takes the lock and holds it until its stdin ends."""
    started: list[Process] = []

    def start() -> Process:
        owner = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", OWNER, str(tmp_path / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(owner)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        return owner

    yield start
    for owner in started:
        owner.kill()
        owner.communicate()


def test_a_second_process_is_told_who_holds_it(
    tmp_path: Path, now: datetime, start_owner: Callable[[], Process]
) -> None:
    """F10: process, host and time of the holder are named."""
    owner = start_owner()

    with pytest.raises(JobError) as caught:
        FileLock(tmp_path / "lock", now=now)

    assert (
        f"is locked by process {owner.pid} on {socket.gethostname()} "
        "since 2026-11-25 00:00:00 UTC."
    ) in caught.value.message


def test_a_dead_owners_lock_is_free(
    tmp_path: Path, now: datetime, start_owner: Callable[[], Process]
) -> None:
    """F11: SIGKILL leaves the lock's file, but not the lock."""
    owner = start_owner()
    owner.kill()
    owner.wait()

    lock = FileLock(tmp_path / "lock", now=now)

    holder = (tmp_path / "lock").read_text()
    assert holder.startswith(f"process {os.getpid()} on ")
    lock.release()


def test_two_jobs_of_one_process_are_kept_apart(tmp_path: Path, now: datetime) -> None:
    """F10: the lock counts within a process too, until it is released."""
    lock = FileLock(tmp_path / "lock", now=now)
    own = f"locked by process {os.getpid()} .*this one: another call, or a canceled"
    with pytest.raises(JobError, match=own):
        FileLock(tmp_path / "lock", now=now)

    lock.release()
    lock.release()

    FileLock(tmp_path / "lock", now=now).release()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_holder_that_cannot_be_read_is_another_process(
    tmp_path: Path, now: datetime, content: bytes
) -> None:
    """A holder that has not written its name yet still holds the lock."""
    lock = FileLock(tmp_path / "lock", now=now)
    (tmp_path / "lock").write_bytes(content)

    with pytest.raises(JobError, match="is locked by another process"):
        FileLock(tmp_path / "lock", now=now)

    lock.release()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, now: datetime) -> None:
    """Where nothing keeps two processes apart, the message says so."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.raises(JobError, match="cannot be locked: No locks") as caught:
        FileLock(tmp_path / "lock", now=now, disk=Disk(flock=flock))

    assert "local disk" in caught.value.hint


@pytest.mark.parametrize("replaced", [True, False])
def test_a_lock_that_was_deleted_meanwhile_is_none(
    tmp_path: Path, now: datetime, *, replaced: bool
) -> None:
    """A lock on a file that has no name any more would keep nobody out."""

    def flock(descriptor: int, operation: int) -> None:
        (tmp_path / "lock").unlink()
        if replaced:
            (tmp_path / "lock").touch()
        fcntl.flock(descriptor, operation)

    with pytest.raises(JobError, match="was just removed by a job"):
        FileLock(tmp_path / "lock", now=now, disk=Disk(flock=flock))
