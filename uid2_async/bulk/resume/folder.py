"""The folder of a job: begun, gone on with or begun anew, and gone in the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from uid2_async.bulk.lock import FileLock
from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    attempt,
    check_folder,
    make_private_folder,
    open_private,
    replace,
    sync_folder,
    write_all,
)
from uid2_async.bulk.resume.journal import Journal
from uid2_async.bulk.resume.manifest import (
    JobTerms,
    Manifest,
    differences,
    is_manifest,
    read_manifest,
)
from uid2_async.errors import JobError

__all__ = ["JobFolder", "job_folder_for"]

_MANIFEST: Final = "manifest.json"
_UNFINISHED: Final = "manifest.json.new"
_JOURNAL: Final = "journal"
_LOCK: Final = "lock"
_OURS: Final = frozenset({_MANIFEST, _UNFINISHED, _JOURNAL, _LOCK})
# Before a folder has a manifest, and after it lost it, it holds nothing else.
_WITHOUT_MANIFEST: Final = frozenset({_UNFINISHED, _JOURNAL, _LOCK})


def job_folder_for(target: str | os.PathLike[str]) -> Path:
    """Name the folder of the job that writes *target*: beside it, and hidden."""
    path = Path(os.path.abspath(target))  # noqa: PTH100 - links stay as they are
    return path.parent / f".{path.name}.uid2-job"


class JobFolder:
    """A job's folder, locked; made by :meth:`open`, left by one of its two ends.

    It is a context manager: leaving the block is :meth:`close`.

    Attributes:
        folder: Where it is.
        manifest: The job's, from its first run: its name and salt stay.
        journal: How far it has come.
        resumed: Whether an earlier run has begun it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lock: FileLock,
        manifest: Manifest,
        journal: Journal,
        resumed: bool,
        disk: Disk,
    ) -> None:
        """Hold what :meth:`open` found or made."""
        self.folder = folder
        self.manifest = manifest
        self.journal = journal
        self.resumed = resumed
        self._lock = lock
        self._disk = disk

    @classmethod
    def open(
        cls,
        path: Path,
        terms: JobTerms,
        *,
        now: datetime,
        restart: bool = False,
        disk: Disk = DISK,
        random: Callable[[int], bytes] = os.urandom,
    ) -> JobFolder:
        """Begin the job in *path*, or go on with it where it has been begun.

        Args:
            path: The folder; it is made where it is missing (0700).
            terms: What the job is to do.
            now: The time, aware; the lock tells it, and a new manifest.
            restart: Discard what an earlier run has left, whatever its terms were.
            disk: The calls that may fail.
            random: Gives so many random bytes, for the job's name and salt.

        Raises:
            JobError: If another process works on it, it is another job (the message
                says in what), it is damaged, or the folder is not one of a job.
        """
        path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        _refuse_output_inside(path, terms)
        lock = _enter(path, now, disk)
        try:
            if restart:
                attempt(f"The folder {path} cannot be emptied", _empty, path, disk)
            old = _read_manifest(path)
            if old is None:
                # What a job that was done has left when it was killed at its very end.
                (path / _JOURNAL).unlink(missing_ok=True)
                names = {"job": random(16).hex(), "salt": random(16).hex()}
                manifest = terms.manifest(**names, created=now)
                _write_manifest(path, manifest, disk)
            else:
                manifest = _continue(old, terms)
            journal = Journal(path / _JOURNAL, disk=disk)
        except BaseException:
            lock.release()
            raise
        return cls(
            path,
            lock=lock,
            manifest=manifest,
            journal=journal,
            resumed=old is not None,
            disk=disk,
        )

    @staticmethod
    def is_begun(path: Path) -> bool:
        """Tell whether there is a job in the folder *path*."""
        return (path / _MANIFEST).exists()

    def path(self, name: str) -> Path:
        """Name a file in the folder; *name* is a file name that we do not use.

        Raises:
            ValueError: If it is another.
        """
        if name in _OURS or name in ("", ".", "..") or "/" in name:
            raise ValueError(f"{name!r} is no name for a part of a job.")
        return self.folder / name

    def discard(self) -> None:
        """Delete the folder and all that is in it: the job is done.

        Raises:
            JobError: If something could not be deleted.
        """
        self.journal.close()
        try:
            refusal = f"The folder {self.folder} cannot be deleted"
            attempt(refusal, _delete, self.folder, self._disk)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Leave the folder as it is, for a run that goes on; a second call is none."""
        self.journal.close()
        self._lock.release()

    def __enter__(self) -> Self:
        """Give the folder, which is open."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Tell where it is and how far the job has come."""
        return f"<JobFolder {str(self.folder)!r} {self.journal!r}>"


def _refuse_output_inside(path: Path, terms: JobTerms) -> None:
    """Refuse a folder that would be deleted together with the output or an input."""
    folder = os.path.realpath(path)
    for name in (terms.target, *(one.name for one in terms.inputs)):
        if Path(os.path.realpath(name)).is_relative_to(folder):
            raise JobError(
                f"The job's folder {path} must not hold its inputs and its output.",
                hint="Name another folder, one that is for the job alone (--job-dir).",
            )


def _enter(path: Path, now: datetime, disk: Disk) -> FileLock:
    """Make the folder where it is missing, and lock it."""
    try:
        found = os.lstat(path)
    except OSError:
        check_folder(path.parent)
        make_private_folder(path, disk=disk)
    else:
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise JobError(
                f"{path} is no folder of yours.",
                hint="Name another folder for the job (--job-dir).",
            )
        check_folder(path)
        _refuse_foreign(path)
        attempt(f"The folder {path} cannot be made private", os.chmod, path, 0o700)
    return FileLock.take(path / _LOCK, now=now, disk=disk)


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that no job made, before anything is written into it."""
    names = set(attempt(f"The folder {path} cannot be read", os.listdir, path))
    if names <= _WITHOUT_MANIFEST and (_JOURNAL not in names or _LOCK in names):
        return
    if _MANIFEST not in names or not is_manifest(_read(path)):
        raise JobError(
            f"The folder {path} holds files, but is not the folder of a job.",
            hint="Name another folder for the job (--job-dir); this one is kept.",
        )


def _read(path: Path) -> bytes:
    """Read the manifest's file in the folder *path*."""
    return attempt(
        f"The manifest in {path} cannot be read", (path / _MANIFEST).read_bytes
    )


def _read_manifest(path: Path) -> Manifest | None:
    """Read the manifest in the folder *path*, if the job has been begun."""
    return read_manifest(_read(path)) if (path / _MANIFEST).exists() else None


def _write_manifest(path: Path, manifest: Manifest, disk: Disk) -> None:
    """Write the manifest, so that it is whole or not there."""
    unfinished = path / _UNFINISHED
    refusal = f"{unfinished} cannot be deleted"
    attempt(refusal, unfinished.unlink, missing_ok=True)
    descriptor = open_private(unfinished)
    try:
        write_all(descriptor, manifest.encode(), "The manifest", disk=disk)
    finally:
        os.close(descriptor)
    replace(unfinished, path / _MANIFEST, disk=disk)


def _continue(old: Manifest, terms: JobTerms) -> Manifest:
    """Go on with a job under the terms that it was begun with, and no others."""
    new = terms.manifest(job=old.job, salt=old.salt, created=old.created)
    changed = differences(old, new)
    if not changed:
        return old
    raise JobError(
        f"The job was begun with something else: {'; '.join(changed)}.",
        hint="Run it as it was begun, or discard it and begin anew (--restart).",
    )


def _empty(path: Path, disk: Disk) -> None:
    """Delete all but the lock; the journal first, since it speaks of the rest.

    The manifest is last, so that what an interrupted deletion leaves is still known to
    be a job's.
    """
    (path / _JOURNAL).unlink(missing_ok=True)
    sync_folder(path, disk=disk)
    _delete_parts(path)
    (path / _MANIFEST).unlink(missing_ok=True)


def _delete_parts(path: Path) -> None:
    """Delete what the job has put into the folder."""
    for entry in path.iterdir():
        if entry.name in (_MANIFEST, _JOURNAL, _LOCK):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _delete(path: Path, disk: Disk) -> None:
    """Delete all, and the folder where that is ours to delete.

    The journal goes after the manifest: as long as that is there, it has to say that
    the job is done, or the next run would do it again.
    """
    _delete_parts(path)
    sync_folder(path, disk=disk)
    for name in (_MANIFEST, _JOURNAL, _LOCK):
        (path / name).unlink(missing_ok=True)
    # It may have been made by others, in a folder that we cannot write to, or be taken
    # already by the next job: empty of ours is enough.
    with contextlib.suppress(OSError):
        path.rmdir()
