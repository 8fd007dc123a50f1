"""Private files and folders whose content survives a power failure.

The calls that fail on a full or broken disk are those of :class:`Disk`. Every function
takes one, so that tests can make them fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random as _random
import shutil
import socket
import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import attrs

from uid2_async._private import printable
from uid2_async.errors import JobError

try:
    import fcntl
except ImportError:  # Windows has none; require_posix says so
    fcntl = None  # type: ignore[assignment] # as above

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HINTS: Final = {
    errno.EDQUOT: "Free disk space and run the same command again. The job resumes.",
    errno.EIO: "Check the disk before you run the job again.",
    errno.ELOOP: "Symbolic links are not followed. Name the file itself.",
    errno.ENOSPC: "Free disk space and run the same command again. The job resumes.",
}


@attrs.frozen(kw_only=True)
class Disk:
    """The operating system calls that may fail while a job runs."""

    write: Callable[[int, bytes], int] = attrs.field(default=os.write)
    fsync: Callable[[int], None] = attrs.field(default=os.fsync)
    replace: Callable[[Path, Path], None] = attrs.field(default=os.replace)
    flock: Callable[[int, int], None] = attrs.field(
        default=getattr(fcntl, "flock", None)
    )


DISK: Final = Disk()


@attrs.frozen(kw_only=True)
class System:
    """What a job uses of its machine. Tests pass their own."""

    clock: Callable[[], datetime] = attrs.field(default=partial(datetime.now, UTC))
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = _random.random
    disk: Disk = DISK


SYSTEM: Final = System()


def require_posix() -> Any:
    """Return fcntl; reject platforms without the calls that keep files safe."""
    if fcntl is None:
        raise JobError(
            "File jobs need a POSIX system. This one has no fcntl.",
            hint="Run them on Linux, on macOS or in WSL. Everything else works here, "
            "including BulkMapper for lists and streams.",
        )
    return fcntl


def attempt(
    refusal: str, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """Call the operating system; on failure, raise *refusal* with the cause."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        code, kind = error.errno or 0, type(error).__name__
    # Libraries put more than the cause into the text of their errors.
    cause = os.strerror(code) if code else kind
    hint = _HINTS.get(code, "Check the folder, its owner and its disk.")
    raise JobError(f"{refusal}: {cause}.", hint=hint)


def open_private(path: Path, *, exclusive: bool = True, append: bool = False) -> int:
    """Open a file with mode 0600, regardless of the umask, for reading and writing.

    Child processes do not inherit the descriptor.
    """
    require_posix()
    refusal = f"{path} cannot be opened"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    flags |= (os.O_EXCL if exclusive else 0) | (os.O_APPEND if append else 0)
    descriptor = attempt(refusal, os.open, path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise JobError(f"{refusal}: it is not a file.", hint="Choose another name.")
    try:
        attempt(refusal, os.fchmod, descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def reopen_private(path: Path, size: int) -> int:
    """Reopen a private file to append after its *size* saved bytes.

    Anything after them is truncated. A new file is created only if none were saved.
    """
    descriptor = open_private(path, exclusive=False)
    if os.fstat(descriptor).st_size >= size:
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, size, os.SEEK_SET)
        return descriptor
    os.close(descriptor)
    raise JobError(
        f"{path} is shorter than what was saved.",
        hint="Discard the job and start over (`restart=True`).",
    )


def make_private_folder(path: Path, *, disk: Disk = DISK) -> None:
    """Create a folder with mode 0700, whose name survives a power failure."""
    require_posix()
    attempt(f"The folder {path} cannot be made", os.mkdir, path, 0o700)
    sync_folder(path.parent, disk=disk)


def check_folder(path: Path, allow_shared: bool = False) -> None:  # noqa: FBT002 - the one option
    """Reject a folder that cannot be written to, or that other users can write to.

    If others can write and the sticky bit is not set, they can replace our files. The
    folder of a private group (as created with umask 002) is not writable by others.
    """
    require_posix()
    refusal = f"The folder {path} cannot be used"
    status = attempt(refusal, os.stat, path)
    if not stat.S_ISDIR(status.st_mode):
        raise JobError(f"{refusal}: it is not a folder.", hint="Name a folder.")
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=effective):
        raise JobError(
            f"{refusal}: it cannot be written to.", hint="Name a folder of your own."
        )
    if not allow_shared and _others_can_write(status):
        raise JobError(
            f"{refusal}: other users can replace files in it.",
            hint="Run chmod go-w on it, set its sticky bit, or use another folder. If "
            "all users of this machine are trusted, allow shared folders "
            "(`shared_folders=True`).",
        )


def _others_can_write(status: os.stat_result) -> bool:
    """Return whether others can replace files in the folder of *status*.

    Not in a private group, whose only member is the owner: most Linux distributions
    create one for each user, with the user's name.
    """
    import grp  # noqa: PLC0415 - Windows has none
    import pwd  # noqa: PLC0415 - as above

    mode = status.st_mode
    if mode & stat.S_ISVTX or not mode & (stat.S_IWOTH | stat.S_IWGRP):
        return False
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return True
    members = {user.pw_name for user in pwd.getpwall() if user.pw_gid == group.gr_gid}
    is_private = (
        owner.pw_gid == group.gr_gid
        and owner.pw_name == group.gr_name
        and {*members, *group.gr_mem} <= {owner.pw_name}
    )
    return bool(mode & stat.S_IWOTH) or not is_private


def delete(path: Path, refusal: str) -> None:
    """Delete a file, a link, or a folder with everything in it."""
    is_folder = path.is_dir() and not path.is_symlink()
    remove: Callable[[Path], None] = shutil.rmtree if is_folder else os.unlink
    attempt(refusal, remove, path)


def write_all(descriptor: int, data: bytes, name: str, *, disk: Disk = DISK) -> None:
    """Write all of *data* to the file called *name* in messages."""
    rest = data
    while rest:
        written = attempt(f"{name} cannot be written", disk.write, descriptor, rest)
        rest = rest[written:]


def sync_file(descriptor: int, name: str, *, disk: Disk = DISK) -> None:
    """Sync a file to the disk.

    An error is final: the system drops what it could not write, so a second call would
    succeed without saving anything.
    """
    attempt(f"{name} cannot be saved", disk.fsync, descriptor)


def sync_folder(path: Path, *, disk: Disk = DISK) -> None:
    """Sync the names in a folder to the disk, if its file system supports it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = attempt(f"The folder {path} cannot be read", os.open, path, flags)

    def sync() -> None:
        try:
            disk.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    try:
        attempt(f"The folder {path} cannot be saved", sync)
    finally:
        os.close(descriptor)


def replace(temporary: Path, target: Path, *, disk: Disk = DISK) -> None:
    """Rename a finished file to its final name, safely across a power failure.

    Afterwards *target* is either unchanged, or all of *temporary*.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = attempt(f"{temporary} cannot be read", os.open, temporary, flags)
    try:
        sync_file(descriptor, str(target), disk=disk)
    finally:
        os.close(descriptor)
    attempt(f"{target} cannot be put in place", disk.replace, temporary, target)
    sync_folder(target.parent, disk=disk)


# --- the lock of a job ----------------------------------------------------------------

_MAX_HOLDER_BYTES: Final = 1_024


class FileLock:
    """A lock that this process holds until :meth:`release`, or until it dies.

    A child process that is forked in the meantime holds it too.
    """

    def __init__(
        self, path: Path, *, now: datetime, busy: str | None = None, disk: Disk = DISK
    ) -> None:
        """Take the lock at *path*, a file of its own, without waiting.

        If it is held, the error says what is *busy*, and which process holds it.
        """
        descriptor = open_private(path, exclusive=False)
        self._descriptor: int | None = descriptor
        try:
            _lock(descriptor, path, busy or f"{path} is locked", disk)
            _refuse_removed(descriptor, path)
            since = now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
            with contextlib.suppress(JobError):  # the disk is full, but it is locked
                attempt(f"{path} cannot be written", os.ftruncate, descriptor, 0)
                write_all(descriptor, f"{holder}\n".encode(), str(path), disk=disk)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, path: Path, busy: str, disk: Disk) -> None:
    """Lock an open file, or raise an error that names the holder."""
    posix = require_posix()
    try:
        disk.flock(descriptor, posix.LOCK_EX | posix.LOCK_NB)
    except OSError as error:
        code, cause = error.errno, error.strerror
    else:
        return
    if code != errno.EWOULDBLOCK:
        raise JobError(
            f"{path} cannot be locked: {cause}.",
            hint="Use a folder on a file system that supports locks, such as a local "
            "disk.",
        )
    # The holder writes its name after it has taken the lock.
    holder = os.pread(descriptor, _MAX_HOLDER_BYTES, 0).decode(errors="replace").strip()
    if holder.startswith(f"process {os.getpid()} on {socket.gethostname()} "):
        holder += " (this one: another call, or a canceled one that is still closing)"
    elif not holder.startswith("process "):
        holder = "another process"
    raise JobError(
        f"{busy} by {printable(holder)}.",
        hint="Wait until it has ended, or stop it.",
    )


def _refuse_removed(descriptor: int, path: Path) -> None:
    """Reject a lock whose file was just deleted by its last holder."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    raise JobError(
        f"{path} was just removed by a job that ended.",
        hint="Check that job's output. Run this job again if it is still needed.",
    )
