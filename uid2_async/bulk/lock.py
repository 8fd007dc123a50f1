"""A lock that keeps two processes from one job.

It is the operating system's (flock): it goes with the process that holds it, however
that ends, so that a dead owner's lock is free and needs no guess by its process id.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    attempt,
    open_private,
    write_all,
)
from uid2_async.errors import JobError

__all__ = ["FileLock"]

_MAX_HOLDER_BYTES: Final = 1_024


class _Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: written into its file, for those who come late."""

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        """Say it in words."""
        since = self.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host} since {since}"


class FileLock:
    """A lock that this process holds until :meth:`release`, or until it dies.

    A child that was forked while it is held holds it too.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Keep a lock that was taken; see :meth:`take`."""
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, *, now: datetime, disk: Disk = DISK) -> FileLock:
        """Take the lock at *path*, a file of its own that stays, without waiting.

        Args:
            path: The lock's file; it is made where it is missing.
            now: The time, for the message that others get.
            disk: The calls that may fail.

        Raises:
            JobError: If it is held, or the file system has no locks.
        """
        descriptor = open_private(path, exclusive=False)
        try:
            _lock(descriptor, path, disk)
            _refuse_removed(descriptor, path)
            holder = _Holder(pid=os.getpid(), host=socket.gethostname(), since=now)
            attempt(f"{path} cannot be written", os.ftruncate, descriptor, 0)
            write_all(descriptor, msgspec.json.encode(holder), str(path), disk=disk)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def release(self) -> None:
        """Let others have it; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __repr__(self) -> str:
        """Tell whether it is held."""
        state = "released" if self._descriptor is None else "held"
        return f"<FileLock {state} {str(self._path)!r}>"


def _lock(descriptor: int, path: Path, disk: Disk) -> None:
    """Lock an open file, or say who holds it."""
    import fcntl  # noqa: PLC0415 - Windows has none; open_private refuses there

    try:
        disk.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        code, cause = error.errno, error.strerror
    else:
        return
    if code != errno.EWOULDBLOCK:
        raise JobError(
            f"{path} cannot be locked: {cause}.",
            hint="Use a folder on a file system that has locks, such as a local disk.",
        )
    raise JobError(
        f"{path} is locked by {_read_holder(descriptor)}.",
        hint="Wait until it has ended, or stop it.",
    )


def _read_holder(descriptor: int) -> str:
    """Say who holds the lock, as far as its file tells."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        data = os.pread(descriptor, _MAX_HOLDER_BYTES, 0)
        return str(msgspec.json.decode(data, type=_Holder))
    return "another process"


def _refuse_removed(descriptor: int, path: Path) -> None:
    """Refuse a lock whose file its last holder has just deleted."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    raise JobError(
        f"{path} was removed in this moment, by a job that ended.",
        hint="Look at that job's output; run the job again if it is still needed.",
    )
