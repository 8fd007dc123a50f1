"""The journal of a job: how far it has come, safe on the disk after every step.

One line for each checkpoint, ``crc32 json``, only ever appended and synced at once. A
checkpoint says all that going on takes, so that only the last one of each input counts;
the file grows by some 200 bytes with each. It holds no identity and no hash of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final
from zlib import crc32

import msgspec

from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    attempt,
    open_private,
    sync_file,
    sync_folder,
    write_all,
)
from uid2_async.errors import JobError

__all__ = ["Checkpoint", "Journal"]

# Eight hexadecimal digits and a blank.
_CRC_BYTES: Final = 9


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A state of a job from which it can go on.

    What *position* and *output* hold comes back as JSON has it: a list for a tuple, a
    dict for a struct (``msgspec.convert`` makes one of it).

    Attributes:
        file: Which input, from 0.
        rows: How many of its rows are finished.
        position: Where its reader stood behind them.
        output: What its writer remembers of them.
        delta: How many bytes the delta's part had.
        counts: How many rows of it ended how.
        done: The output of this input is whole under its final name.
    """

    file: int
    rows: int
    position: Any = None
    output: Any = None
    delta: int = 0
    counts: dict[str, int] = {}
    done: bool = False


class Journal:
    """An open journal; its file is private and belongs to one process at a time."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        """Open the journal at *path*, or begin it, and read how far the job has come.

        A last line that was not finished when its writer died is dropped.

        Raises:
            JobError: If an earlier line is damaged, or the file cannot be opened.
        """
        self._disk = disk
        self._last: Checkpoint | None = None
        self._by_file: dict[int, Checkpoint] = {}
        self._sound = True
        self._descriptor: int | None = open_private(path, exclusive=False, append=True)
        try:
            self._read(self._descriptor)
            sync_folder(path.parent, disk=disk)
        except BaseException:
            self.close()
            raise

    @property
    def last(self) -> Checkpoint | None:
        """The newest checkpoint, or None before the first."""
        return self._last

    @property
    def by_file(self) -> Mapping[int, Checkpoint]:
        """The newest checkpoint of each input."""
        return MappingProxyType(self._by_file)

    def append(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; when this returns it outlives a power cut.

        What the checkpoint speaks of must be saved before.

        Raises:
            JobError: If it could not be saved. Nothing can be appended after that: only
                opening the journal again tells what of it is on the disk.
        """
        if self._descriptor is None or not self._sound:
            raise JobError(
                "The journal takes no more checkpoints: it is closed, or one was lost.",
                hint="Run the same job again: it goes on from the last that was saved.",
            )
        body = msgspec.json.encode(checkpoint)
        self._sound = False
        line = b"%08x %s\n" % (crc32(body), body)
        write_all(self._descriptor, line, "The journal", disk=self._disk)
        sync_file(self._descriptor, "The journal", disk=self._disk)
        self._sound = True
        self._remember(checkpoint)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _remember(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint as the newest."""
        self._last = self._by_file[checkpoint.file] = checkpoint

    def _read(self, descriptor: int) -> None:
        """Read the lines, and cut off one that was not finished."""
        with open(descriptor, "rb", closefd=False) as file:
            whole = 0
            for line, checkpoint in _read_lines(file):
                whole += len(line)
                self._remember(checkpoint)
            size = file.seek(0, os.SEEK_END)
        if whole < size:
            attempt("The journal cannot be cut", os.ftruncate, descriptor, whole)
            sync_file(descriptor, "The journal", disk=self._disk)

    def __repr__(self) -> str:
        """Tell how far the job has come."""
        last = self._last
        where = "empty" if last is None else f"file {last.file}, row {last.rows}"
        return f"<Journal {where}>"


def _read_lines(file: BinaryIO) -> Iterator[tuple[bytes, Checkpoint]]:
    """Read the lines up to one that is torn; refuse one that is damaged."""
    for number, line in enumerate(file, 1):
        checkpoint = _parse(line)
        if checkpoint is not None:
            yield line, checkpoint
        elif _is_torn(line) and not file.read(1):
            return
        else:
            raise JobError(
                f"Line {number} of the job's journal is damaged.",
                hint="Check the disk; then discard the job and begin anew (--restart).",
            )


def _parse(line: bytes) -> Checkpoint | None:
    """Read one line; None if it is not as it was written."""
    body = line[_CRC_BYTES:-1]
    # Byte for byte: as a number, "A" would pass for "a".
    if line != b"%08x %s\n" % (crc32(body), body):
        return None
    try:
        return msgspec.json.decode(body, type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_torn(line: bytes) -> bool:
    """Tell whether a last line was cut, or kept its length and lost a sector."""
    return not line.endswith(b"\n") or b"\0" in line
