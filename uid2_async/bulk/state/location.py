"""Where a state lies: on a local disk, readable by its owner, used by one process.

The lock is SQLite's own, on a small database beside the state: it works wherever
SQLite does, the operating system lets go of it when its owner dies, and the state
itself can still be read with other tools while a job runs.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from uid2_async.errors import JobError

__all__ = ["StateLock", "check_place", "create_private", "read_mounts"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
# Whose locks or shared memory cannot be relied on: https://sqlite.org/wal.html.
# 9p is what WSL shows of Windows' disks, and some sandboxes of their host's.
# fmt: off
_REMOTE: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "davfs2", "gfs",
        "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
        "prl_fs", "smb3", "smbfs", "vboxsf", "vmhgfs"
    }
)
_REMOTE_FUSE: Final = frozenset(
    {
        "blobfuse", "blobfuse2", "ceph", "curlftpfs", "davfs", "davfs2",
        "gcsfuse", "glusterfs", "goofys", "juicefs", "mount-s3",
        "mountpoint-s3", "rclone", "s3fs", "seaweedfs", "smbnetfs", "sshfs",
        "vmhgfs-fuse"
    }
)
# fmt: on


def read_mounts() -> list[tuple[str, str]]:
    """List mount points and their file systems; empty where Linux' list is missing."""
    with suppress(OSError):
        return list(_parse_mounts(_MOUNTS.read_text().splitlines()))
    return []


def _parse_mounts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Read lines of mountinfo (proc(5)): the point, ``-``, then the file system."""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].encode().decode("unicode_escape")
        yield point, right.split(" ")[0]


def check_place(path: Path, mounts: Iterable[tuple[str, str]]) -> None:
    """Refuse a place where a state is not safe.

    Args:
        path: Of the state, which may not exist yet.
        mounts: As :func:`read_mounts` gives them.

    Raises:
        JobError: If the folder is missing or others may write into it, if *path* is a
            link or no file, or if the file system is one of the network.
    """
    folder = path.parent.resolve()
    if not folder.is_dir():
        raise JobError(
            "The folder of the state does not exist.",
            hint=f"Create {folder}, or give another path.",
        )
    mode = folder.stat().st_mode
    shared = mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX
    # Elsewhere the mode says nothing about others.
    if os.name == "posix" and shared:
        raise JobError(
            "Others may replace the state: its folder is writable for them.",
            hint=f"Run chmod go-w on {folder}, or give another path.",
        )
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise JobError(
            "The state is a link or no file.", hint="Give the path of the file itself."
        )
    kind = _file_system(folder, mounts)
    if kind in _REMOTE or kind.removeprefix("fuse.") in _REMOTE_FUSE:
        raise JobError(
            f"The state lies on a file system of the network ({kind}), where SQLite "
            "cannot lock it.",
            hint="Put it on a local disk, and copy it when no job runs.",
        )


def _file_system(folder: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """Name the file system that *folder* is on, or nothing."""
    points = dict(mounts)
    for parent in (folder, *folder.parents):
        if str(parent) in points:
            return points[str(parent)]
    return ""


def create_private(path: Path) -> None:
    """Make *path* an empty file of mode 0600, whatever the umask, unless it exists.

    SQLite gives ``-wal`` and ``-shm`` the mode of the file that they belong to.

    Raises:
        OSError: If it cannot be made.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with suppress(FileExistsError):
        os.close(os.open(path, flags, 0o600))


class StateLock:
    """Keeps a second process, or a second object, from a state."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the state at *path*.

        Raises:
            JobError: If another holds it; names who.
        """
        name = path.with_name(path.name + ".lock")
        if name.is_symlink():
            raise JobError("The lock of the state is a link.", hint=f"Delete {name}.")
        create_private(name)
        lock = sqlite3.connect(name, timeout=0, isolation_level=None)
        owner = ""
        try:
            lock.execute("BEGIN IMMEDIATE")
            self._sign(lock)
            lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            owner = self._read_owner(lock)
        except sqlite3.DatabaseError:
            owner = "nobody can tell: its lock is damaged"
        if owner:
            lock.close()
            raise JobError(
                f"The state is in use by another process ({owner}).",
                hint="Wait until it has finished, or use another state.",
            )
        self._lock = lock

    @staticmethod
    def _sign(lock: sqlite3.Connection) -> None:
        """Write down who holds the lock, for the message that others get."""
        lock.execute("CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL)")
        lock.execute("DELETE FROM owner")
        name = f"process {os.getpid()} on {socket.gethostname()}"
        lock.execute("INSERT INTO owner VALUES (?)", (name,))
        lock.execute("COMMIT")

    @staticmethod
    def _read_owner(lock: sqlite3.Connection) -> str:
        """Name who holds the lock."""
        with (
            suppress(sqlite3.Error),
            closing(lock.execute("SELECT name FROM owner")) as found,
        ):
            row = found.fetchone()
            if row is not None:
                return str(row[0])
        return "unknown"

    def release(self) -> None:
        """Let go of it; the file stays, since deleting it would race with others."""
        self._lock.close()
