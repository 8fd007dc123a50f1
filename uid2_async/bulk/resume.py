"""The folder of a file job: its lock, its unfinished outputs and its log.

The log is one append-only file. Its first line describes the job; each further line is
a checkpoint of one input. The order at a checkpoint is: output written, output synced,
line appended, log synced. A job with a state writes no checkpoints: its results are in
the state, from which the outputs are written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from zlib import crc32

import msgspec

from uid2_async._version import __version__
from uid2_async.bulk.paths import InputIdentity, short_name
from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    FileLock,
    attempt,
    check_folder,
    delete,
    make_private_folder,
    open_private,
    replace,
    sync_file,
    sync_folder,
    write_all,
)
from uid2_async.errors import JobError

_LOG: Final = "log"
_NEW_LOG: Final = "log.new"
_LOCK: Final = "lock"
_NAME_BYTES: Final = 255
_KIND: Final = "uid2_async job"
_LOG_HEAD: Final = json.dumps({"kind": _KIND})[:-1].encode()
# Eight hexadecimal digits and a space.
_CRC_BYTES: Final = 9
_RESTART: Final = "Discard the job and start over with `restart=True`."


def job_folder_for(target: str | os.PathLike[str]) -> Path:
    """Return the default folder of the job that writes *target*: hidden, next to it."""
    path = Path(os.path.abspath(target))  # noqa: PTH100 - links stay as they are
    name = f".{path.name}.uid2-job"
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = f".{short_name(path.name)}.uid2-job"
    return path.with_name(name)


def part_path(folder: Path, name: str) -> Path:
    """Return the path of the unfinished output of the input *name*."""
    return folder / f"part-{sha256(name.encode()).hexdigest()[:16]}"


Terms: TypeAlias = Callable[[str], Mapping[str, Any]]
"""Returns what must not change until a job is done, as JSON values.

``target`` is the output as the user named it, ``options`` everything else that affects
the output, and ``settings`` a digest of scope, operator and API key with the salt of
the job, so that another client is noticed without storing any of these."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A state of one input from which the job can resume.

    Attributes:
        input: The identity of the input at that time.
        rows: The number of its rows in the output.
        output: What the output needs to resume after them, as a JSON value.
        counts: Rows by status.
        input_warnings: Suspicious patterns in its identifiers, with their counts.
        done: Whether the output is complete under its final name.
    """

    input: InputIdentity
    rows: int = 0
    output: Any = None
    counts: Mapping[str, int] = {}
    input_warnings: Mapping[str, int] = {}
    done: bool = False


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Return a checkpoint as ASCII JSON, which can hold any file name."""
    return json.dumps(msgspec.to_builtins(checkpoint))


def decode_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint that :func:`encode_checkpoint` wrote."""
    return msgspec.convert(json.loads(text), Checkpoint)


class JobFolder:
    """The locked folder of a job; a context manager that closes it.

    Attributes:
        path: Its path.
        job: A unique name of the job, the same in all runs.
        resumed: Whether an earlier run has started the job.
        keep: Whether a failed run leaves something to resume outside the log.
        is_done: Whether the job is complete, so that its folder can be deleted.
        checkpoints: The newest checkpoint of each input, by the input's name.
    """

    def __init__(
        self,
        path: Path,
        terms: Terms,
        *,
        now: datetime,
        restart: bool = False,
        shared: bool = False,
        disk: Disk = DISK,
    ) -> None:
        """Start the job in *path*, or resume it there. Blocks."""
        self.path: Path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        self.job: str = ""
        self.keep: bool = False
        self.is_done: bool = False
        self.checkpoints: dict[str, Checkpoint] = {}
        self._disk = disk
        self._log: int | None = None
        self._sound = True
        self._lock = _lock_folder(self.path, now, disk, shared=shared)
        try:
            self.resumed: bool = self.is_unfinished(self.path) and not restart
            if not self.resumed:
                # The new log refers to none of the data that a restart deletes.
                self._write_header(_header(terms, secrets.token_hex(16)))
            if restart:
                self._delete_contents()
            self._read_log(terms)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_unfinished(path: Path) -> bool:
        """Return whether the folder *path* contains a job."""
        return (path / _LOG).exists()

    def append(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; once this returns, it survives a power failure.

        The data that the checkpoint refers to must be synced before. A failed write or
        sync is final: only reading the log again shows what is on the disk.
        """
        if self._log is None or not self._sound:
            raise JobError(
                "The log of the job is closed, or a checkpoint could not be saved.",
                hint="Run the same command again to resume from the last checkpoint.",
            )
        self._sound = False
        line = _encode(encode_checkpoint(checkpoint).encode())
        write_all(self._log, line, "The log of the job", disk=self._disk)
        sync_file(self._log, "The log of the job", disk=self._disk)
        self._sound = True
        self.checkpoints[checkpoint.input.name] = checkpoint

    def discard(self) -> None:
        """Delete the folder, and close it.

        The log is deleted last, so that a partly deleted folder is still recognized as
        that of a job.
        """
        try:
            self._delete_contents()
            for path in (self.path / _LOG, self.path / _LOCK):
                attempt(f"{path} cannot be deleted", path.unlink, missing_ok=True)
            # Others may have created it, or the next job may already use it.
            with contextlib.suppress(OSError):
                self.path.rmdir()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the folder for a run that resumes. Idempotent."""
        descriptor, self._log = self._log, None
        if descriptor is not None:
            os.close(descriptor)
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the folder."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close it, or delete it if nothing can be resumed."""
        # After a failed save, the log may refer to data in the folder.
        is_empty = self._sound and not self.checkpoints and not self.keep
        if self.is_done or (error is not None and is_empty):
            self.discard()
        self.close()

    def _delete_contents(self) -> None:
        """Delete everything except the log and the lock."""
        refusal = f"The folder {self.path} cannot be emptied"
        for name in set(attempt(refusal, os.listdir, self.path)) - {_LOG, _LOCK}:
            delete(self.path / name, refusal)
        sync_folder(self.path, disk=self._disk)

    def _write_header(self, header: Mapping[str, Any]) -> None:
        """Replace the log by one with only its first line, or leave it as it is."""
        new = self.path / _NEW_LOG
        attempt(f"{new} cannot be deleted", new.unlink, missing_ok=True)
        descriptor = open_private(new)
        try:
            line = _encode(json.dumps(header).encode())
            write_all(descriptor, line, "The log of the job", disk=self._disk)
        finally:
            os.close(descriptor)
        replace(new, self.path / _LOG, disk=self._disk)

    def _read_log(self, terms: Terms) -> None:
        """Read all complete lines, truncate a torn one, and leave the log open."""
        self._log = open_private(self.path / _LOG, exclusive=False, append=True)
        with open(self._log, "rb", closefd=False) as file:
            data = file.read()
        lines = list(_parse_lines(data))
        first = json.loads(lines[0]) if lines else None
        if not isinstance(first, dict) or first.get("kind") != _KIND:
            raise _damaged(1)
        _check_terms(first, terms)
        # Its salt is random.
        self.job = sha256(lines[0].encode()).hexdigest()
        for number, line in enumerate(lines[1:], 2):
            with contextlib.suppress(ValueError, msgspec.ValidationError):
                checkpoint = decode_checkpoint(line)
                self.checkpoints[checkpoint.input.name] = checkpoint
                continue
            raise _damaged(number)
        whole = sum(len(_encode(line.encode())) for line in lines)
        if whole < len(data):
            attempt("The log of the job cannot be cut", os.ftruncate, self._log, whole)
            sync_file(self._log, "The log of the job", disk=self._disk)


# --- the folder -----------------------------------------------------------------------


def _lock_folder(path: Path, now: datetime, disk: Disk, *, shared: bool) -> FileLock:
    """Create the folder if missing, check that it is a job folder, and lock it."""
    try:
        found = os.lstat(path)
    except OSError:
        check_folder(path.parent, shared)
        make_private_folder(path, disk=disk)
    else:
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise JobError(
                f"{path} belongs to another user.",
                hint="Name another folder for the job with `job_dir=FOLDER`.",
            )
        _refuse_foreign(path)
        attempt(f"The folder {path} cannot be made private", os.chmod, path, 0o700)
    return FileLock(path / _LOCK, now=now, disk=disk)


def _refuse_foreign(path: Path) -> None:
    """Raise if the folder is not a job folder, before writing to it."""
    names = set(attempt(f"The folder {path} cannot be read", os.listdir, path))
    head = b""
    if _LOG in names:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        refusal = f"{path / _LOG} cannot be read"
        descriptor = attempt(refusal, os.open, path / _LOG, flags)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                head = os.read(descriptor, _CRC_BYTES + len(_LOG_HEAD))[_CRC_BYTES:]
        finally:
            os.close(descriptor)
    # Even a damaged log is one of ours.
    if head != _LOG_HEAD and not names <= {_NEW_LOG, _LOCK}:
        raise JobError(
            f"The folder {path} contains files, but is not the folder of a job.",
            hint="Name another folder for the job with `job_dir=FOLDER`. This one is "
            "left unchanged.",
        )


# --- the log --------------------------------------------------------------------------


def _header(terms: Terms, salt: str) -> dict[str, Any]:
    """Return the first line of the log of a job with *terms*."""
    fields = {"kind": _KIND, "version": __version__, **terms(salt), "salt": salt}
    # An option may be any mapping or sequence.
    text = json.dumps(
        fields, default=lambda one: dict(one) if isinstance(one, Mapping) else list(one)
    )
    header: dict[str, Any] = json.loads(text)
    return header


def _encode(body: bytes) -> bytes:
    """Return one line of the log, with its checksum."""
    return b"%08x %s\n" % (crc32(body), body)


def _parse_lines(data: bytes) -> Iterator[str]:
    """Yield the text of each line, up to a torn line."""
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        body = line[_CRC_BYTES:-1]
        # Compared byte for byte: parsed as a number, "A" would pass for "a".
        if line == _encode(body):
            yield body.decode()
        elif number == len(lines) and (not line.endswith(b"\n") or b"\0" in line):
            return
        else:
            raise _damaged(number)


def _damaged(number: int) -> JobError:
    return JobError(
        f"Line {number} of the job's log is damaged.",
        hint=f"Check the disk. {_RESTART}",
    )


def _check_terms(old: Mapping[str, Any], terms: Terms) -> None:
    """Raise if the folder has another job; list the differences, but no values."""
    new = _header(terms, str(old.get("salt", "")))
    before, now = old.get("options", {}), new["options"]
    missing = object()
    versions = f"{new['version']}, not {old.get('version')}"
    aspects = {
        "version": f"another version of uid2_async ({versions})",
        "settings": "another API key or operator",
        "target": "another output",
    }
    changed = [why for key, why in aspects.items() if old.get(key) != new[key]]
    changed += [
        f"option {name}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, missing) != now.get(name, missing)
    ]
    if changed:
        raise JobError(
            f"The unfinished job differs from this one: {'; '.join(changed)}.",
            hint=f"Run the original command. {_RESTART}",
        )


def check_input(saved: Checkpoint | None, now: InputIdentity) -> None:
    """Raise if an input has changed since its last checkpoint."""
    if saved is None or saved.input == now:
        return
    before = saved.input
    aspects = {
        "size": before.size != now.size,
        "time of the last change": before.mtime_ns != now.mtime_ns,
        "content": before.digest != now.digest,
    }
    changed = ", ".join(name for name, differs in aspects.items() if differs)
    raise JobError(
        f"{now.name} has changed since the job started to map it: {changed}.",
        hint=f"Restore the file. {_RESTART}",
    )
