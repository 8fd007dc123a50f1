"""A disk that fails where a test wants it to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import attrs

from uid2_async.bulk.private_files import DISK, Disk


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
