"""A disk that fails where it is told to, and a job to put into a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.bulk.resume.manifest import InputIdentity, JobTerms
from uid2_async.bulk.resume.private_files import DISK, Disk

NOBODY = 65534


@attrs.define
class FailingDisk:
    """A disk of which one call fails, once; later ones succeed, as on a real one.

    Attributes:
        fails_at: Which call, from 0; None for no call.
        error: With what; an OSError, or what stands for the end of the process.
        kept: How many bytes a failing write still writes.
        calls: What was called.
    """

    fails_at: int | None = None
    error: Callable[[], BaseException] = lambda: OSError(errno.ENOSPC, "full")
    kept: int = 0
    only: str = ""
    calls: list[str] = attrs.field(factory=list)

    def disk(self) -> Disk:
        """Make the calls."""
        return Disk(write=self._write, fsync=self._fsync, replace=self._replace)

    def _fails(self, name: str) -> bool:
        """Count a call, and tell whether it fails."""
        if self.only and name != self.only:
            return False
        self.calls.append(name)
        return len(self.calls) - 1 == self.fails_at

    def _write(self, descriptor: int, data: bytes) -> int:
        if self._fails("write"):
            os.write(descriptor, data[: self.kept])
            raise self.error()
        return os.write(descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        if self._fails("fsync"):
            raise self.error()

    def _replace(self, source: Path, target: Path) -> None:
        if self._fails("replace"):
            raise self.error()
        DISK.replace(source, target)


@pytest.fixture
def failing() -> type[FailingDisk]:
    """Give the class of failing disks."""
    return FailingDisk


@pytest.fixture
def now() -> datetime:
    """Give a time."""
    return datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def terms(tmp_path: Path) -> JobTerms:
    """Give what a job is to do."""
    people = InputIdentity(name="people.csv", size=7, mtime_ns=1, digest="ab")
    return JobTerms(
        inputs=[people],
        target=str(tmp_path / "mapped.csv"),
        options={"batch_size": 5_000, "columns": ("email", "phone")},
        settings=lambda salt: f"digest with {salt}",
    )


@pytest.fixture
def umask() -> Iterator[Callable[[int], Any]]:
    """Set the umask for the length of a test."""
    old = os.umask(0)
    os.umask(old)
    yield os.umask
    os.umask(old)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Be somebody whom the modes of files concern, also where root runs the tests."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield
    if root:
        os.seteuid(0)
