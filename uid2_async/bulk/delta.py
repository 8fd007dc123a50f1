"""The audience delta: a CSV file of what changed, to be merged downstream.

While a job runs, the changes of its rows are collected in a part, each line behind the
number of its change. In the end the numbers are taken off, and those changes that no
row of the input spoke of follow.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    reopen_private,
    sync_file,
    write_all,
)
from uid2_async.bulk.state import Change, StateRow
from uid2_async.protocol import base64

__all__ = ["DELTA_COLUMNS", "DeltaFile", "DeltaLines", "DeltaPart"]

DELTA_COLUMNS: Final = ("CHANGE", "INPUT_TYPE", "IDENTITY_HASH", "UID", "OLD_UID")


class DeltaLines:
    """Writes the lines of a part, in memory."""

    def __init__(self) -> None:
        """Start empty."""
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")

    def write(
        self, changes: Iterable[tuple[StateRow, str, bytes, Sequence[str]]]
    ) -> bytes:
        """Write changes.

        Args:
            changes: Of each the row, which has one; whom it is about, as the kind of
                hash and the identity bytes; and the input's key columns.
        """
        encode = base64.encode_text
        self._writer.writerows(
            [row.s, row.x, kind, encode(identity), row.u, row.o, *keys]
            for row, kind, identity, keys in changes
        )
        data = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return data


class DeltaPart:
    """The file in which the lines of a job's delta are collected.

    Attributes:
        size: How many bytes have been written.
    """

    def __init__(self, path: Path, *, size: int, disk: Disk = DISK) -> None:
        """Open the part behind the first *size* bytes, which have been saved.

        Raises:
            JobError: If it is shorter than that, or cannot be opened.
        """
        self._disk = disk
        self.size: int = size
        self._descriptor = reopen_private(path, size)

    def write(self, data: bytes) -> int:
        """Append *data* so that it outlives a power cut; return the new size."""
        if data:
            write_all(self._descriptor, data, "The delta", disk=self._disk)
            sync_file(self._descriptor, "The delta", disk=self._disk)
            self.size += len(data)
        return self.size

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class DeltaFile:
    """Puts a delta together; its file must be open for writing text.

    Attributes:
        lines: How many changes have been written.
    """

    def __init__(
        self, target: TextIO, *, keys: Sequence[str], after: int, until: int
    ) -> None:
        """Write the header.

        Args:
            target: Where to; it is not closed.
            keys: The names of the input's key columns.
            after: The number of the last change that has been told before.
            until: The number of the last change to tell.
        """
        self.lines: int = 0
        self._writer = csv.writer(target, lineterminator="\n")
        self._writer.writerow([*DELTA_COLUMNS, *keys])
        self._blank = [""] * len(keys)
        self._after = after
        self._told = bytearray((until - after) // 8 + 1)

    def add_part(self, part: Path) -> None:
        """Take over the lines of a part."""
        with part.open(encoding="utf-8", newline="") as file:
            for number, *cells in csv.reader(file):
                self._mark(int(number))
                self._writer.writerow(cells)
                self.lines += 1

    def add_rest(self, changes: Iterable[Change]) -> None:
        """Add those of *changes* that no row of the input spoke of."""
        for change in self._untold(changes):
            who = (f"{change.kind}_hash", base64.encode_text(change.identity))
            uids = (change.uid, change.old_uid)
            self._writer.writerow([change.change, *who, *uids, *self._blank])
            self.lines += 1

    def _untold(self, changes: Iterable[Change]) -> Iterator[Change]:
        """Leave out what has been written."""
        for change in changes:
            place, bit = divmod(change.seq - self._after, 8)
            if not self._told[place] & 1 << bit:
                yield change

    def _mark(self, seq: int) -> None:
        """Remember that a change has been written."""
        place, bit = divmod(seq - self._after, 8)
        self._told[place] |= 1 << bit
