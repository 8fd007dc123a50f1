"""A disk that fails where a test requires it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import attrs

from uid2_async.bulk.private_files import DISK, Disk


@attrs.define
class FailingDisk:
    """A disk on which one call fails once. Later calls succeed, as on a real one.

    Attributes:
        fails_at: The number of the call that fails, starting at 0. None for no failure.
        error: The error to raise: an OSError, or one that simulates the end of the
            process.
        kept: The number of bytes that a failing write still writes.
        calls: The calls so far.
    """

    fails_at: int | None = None
    error: Callable[[], BaseException] = lambda: OSError(errno.ENOSPC, "made up")
    kept: int = 0
    only: str = ""
    calls: list[str] = attrs.field(factory=list)

    def disk(self) -> Disk:
        """Return the calls of the disk."""
        return Disk(write=self._write, fsync=self._fsync, replace=self._replace)

    def _fails(self, name: str) -> bool:
        """Count a call, and return whether it fails."""
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
