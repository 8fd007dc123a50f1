"""Where rows go: into a part that a job can go on with, or to stdout."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from uid2_async.bulk.files.chunk import Chunk
from uid2_async.bulk.files.formats import is_gzipped
from uid2_async.bulk.files.text_rows import TextRows
from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    attempt,
    open_private,
    reopen_private,
    replace,
    sync_file,
    write_all,
)
from uid2_async.errors import JobError

__all__ = [
    "Formatted",
    "Output",
    "PartOutput",
    "StreamOutput",
    "beside",
    "check_placed",
    "place",
    "write_beside",
]

_SAVE_ROWS: Final = 5_000
# The longest name there may be has 255 bytes; a character has at most four.
_NAME_CHARS: Final = 40

Formatted: TypeAlias = Any
"""Rows ready to be written: bytes, or a record batch."""


class Output(Protocol):
    """The output of one file; what blocks and what computes are apart.

    Attributes:
        save_rows: After how many rows it is worth to save.
    """

    save_rows: int

    def format(
        self,
        chunk: Chunk,
        columns: Mapping[str, Sequence[Any]],
        rows: Sequence[int] | None = None,
    ) -> Formatted:
        """Make rows ready to be written; computes.

        Args:
            chunk: The rows as they were read.
            columns: The columns that are added.
            rows: Which row each of their cells belongs to; None where it is each once.
        """
        ...

    def write(self, formatted: Formatted) -> None:
        """Write; blocks."""
        ...

    def sync(self) -> Any:
        """Bring all to the disk; blocks.

        Returns:
            What is to be remembered to go on from here, as JSON can hold it.
        """
        ...

    def finish(self, target: Path | None) -> None:
        """Give the whole output its name; blocks."""
        ...

    def close(self) -> None:
        """Close what is open, and leave the rest as it is."""
        ...


def beside(target: Path) -> Path:
    """Name a file beside *target* that nobody has begun."""
    unfinished = target.with_name(f".{target.name[:_NAME_CHARS]}.uid2-unfinished")
    unfinished.unlink(missing_ok=True)
    return unfinished


def write_beside(
    target: Path, write: Callable[[Path], object], *, disk: Disk = DISK
) -> None:
    """Let *write* make a private file, and give it its name when it is whole.

    Raises:
        JobError: If it cannot be done; nothing is left behind then.
    """
    unfinished = beside(target)
    try:
        attempt(f"{target} cannot be written", write, unfinished)
        replace(unfinished, target, disk=disk)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def place(part: Path, target: Path, *, disk: Disk = DISK) -> None:
    """Give a part that is whole its name, whichever file system it lies on.

    Raises:
        JobError: If it cannot be done.
    """
    if part.stat().st_dev == target.parent.stat().st_dev:
        replace(part, target, disk=disk)
        return
    write_beside(target, lambda path: _copy(part, path), disk=disk)
    part.unlink()


def check_placed(target: Path) -> None:
    """Refuse to believe that an output has its name already where there is none.

    Raises:
        JobError: If so.
    """
    if not target.exists():
        raise JobError(
            f"Neither {target} nor what an earlier run has saved of it is there.",
            hint="Discard the job and begin anew (--restart).",
        )


def _copy(part: Path, path: Path) -> None:
    """Write a copy."""
    with part.open("rb") as source, os.fdopen(open_private(path), "wb") as file:
        shutil.copyfileobj(source, file)


def _compress(part: Path, path: Path) -> None:
    """Write a compressed copy; the same bytes every time."""
    with (
        part.open("rb") as source,
        os.fdopen(open_private(path), "wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed)


class PartOutput:
    """Text in a part that grows, and is cut to what was remembered.

    Attributes:
        save_rows: About as many as a batch has: no more are lost with the process.
        format: See :meth:`Output.format`.
    """

    save_rows: int = _SAVE_ROWS

    def __init__(
        self,
        part: Path,
        rows: TextRows,
        *,
        remembered: Any = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the part.

        Args:
            part: Where.
            rows: Makes the text.
            remembered: What :meth:`sync` said in an earlier life.
            disk: What may fail.

        Raises:
            JobError: If it cannot be opened, or is shorter than what was remembered.
        """
        self.format: Callable[..., bytes] = rows.format
        self._part = part
        self._rows = rows
        self._disk = disk
        self._size = int(remembered or 0)
        # Killed behind the rename and before that was noted, there is no part left.
        self._is_placed = remembered is not None and not part.exists()
        self._descriptor: int | None = None
        if not self._is_placed:
            self._open(new=remembered is None)

    def _open(self, *, new: bool) -> None:
        """Open the part and cut what was not saved."""
        self._descriptor = reopen_private(self._part, self._size)
        if new:
            try:
                self.write(self._rows.header())
            except BaseException:
                self.close()
                raise

    def write(self, formatted: bytes) -> None:
        """See :meth:`Output.write`.

        Raises:
            JobError: If the part has been given its name already.
        """
        if self._descriptor is None:
            raise JobError(
                "The output has its name already, but rows are missing in the journal.",
                hint="Discard the job and begin anew (--restart).",
            )
        write_all(self._descriptor, formatted, "The output", disk=self._disk)
        self._size += len(formatted)

    def sync(self) -> int:
        """See :meth:`Output.sync`."""
        if self._descriptor is not None:
            sync_file(self._descriptor, "The output", disk=self._disk)
        return self._size

    def finish(self, target: Path | None) -> None:
        """See :meth:`Output.finish`."""
        assert target is not None  # noqa: S101 - only a stream has none
        self.close()
        if self._is_placed:
            check_placed(target)
        elif is_gzipped(target.name):
            write_beside(
                target, lambda path: _compress(self._part, path), disk=self._disk
            )
        else:
            place(self._part, target, disk=self._disk)

    def close(self) -> None:
        """See :meth:`Output.close`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class StreamOutput:
    """Text to stdout, which cannot be gone on with.

    Attributes:
        save_rows: After how many rows it is written.
        format: See :meth:`Output.format`.
    """

    save_rows: int = _SAVE_ROWS

    def __init__(self, stream: BufferedIOBase, rows: TextRows) -> None:
        """Write the header."""
        self.format: Callable[..., bytes] = rows.format
        self._stream = stream
        stream.write(rows.header())

    def write(self, formatted: bytes) -> None:
        """See :meth:`Output.write`."""
        self._stream.write(formatted)
        self._stream.flush()

    def sync(self) -> None:
        """See :meth:`Output.sync`."""
        self._stream.flush()

    def finish(self, target: Path | None) -> None:  # noqa: ARG002 - it has no name
        """See :meth:`Output.finish`."""
        self._stream.flush()

    def close(self) -> None:
        """See :meth:`Output.close`."""
