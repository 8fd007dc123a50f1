"""The lines of a text file, read a piece at a time and decoded without a trace."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import stat
import zlib
from io import StringIO, UnsupportedOperation
from os import fstat
from typing import Any, BinaryIO, Final

import msgspec

from uid2_async.errors import InputError

__all__ = ["Lines", "Position"]

MAX_LINE_BYTES: Final = 64 * 1024 * 1024

_PIECE_BYTES: Final = 1024 * 1024
_UTF16: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class Position(msgspec.Struct, frozen=True):
    """A place in a text file between two rows.

    Attributes:
        offset: How many bytes are before it, not compressed.
        line: How many lines are.
        rows: How many rows are.
    """

    offset: int
    line: int
    rows: int


class Lines:
    """Reads lines; *load* does the reading, the rest is done in memory.

    Attributes:
        name: What messages call the file.
        encoding: What is found to be its encoding.
        pending: Lines that have been loaded and not been dropped, with their ends.
        line: How many lines were before *pending*.
        offset: How many bytes were.
        at_end: Whether all has been loaded.
    """

    def __init__(
        self, stream: BinaryIO, *, name: str, encoding: str, gzipped: bool = False
    ) -> None:
        """Read from *stream*, which is closed by :meth:`close`."""
        self.name: str = name
        self.encoding: str = encoding
        self.pending: list[str] = []
        self.line: int = 0
        self.offset: int = 0
        self.at_end: bool = False
        self._raw = stream
        self._stream: Any = stream
        if gzipped:
            self._stream = gzip.GzipFile(fileobj=stream, mode="rb")
        self._rest = ""
        self._begun = False
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def bytes_read(self) -> int:
        """How much of the file on disk has been read."""
        try:
            return self._raw.tell()
        except OSError:
            return self.offset

    def seek(self, position: Position) -> None:
        """Go on behind rows that were read in an earlier life."""
        if not self._begun:
            # What the file begins with tells its encoding.
            self._decode(self._read())
        self._stream.seek(position.offset)
        self.pending, self._rest = [], ""
        self.line, self.offset = position.line, position.offset
        self.at_end = False
        self._decoder = None

    def load(self) -> bool:
        """Read another piece; False if there is nothing more to look at."""
        if self.at_end:
            return False
        data = self._read()
        text = self._rest + self._decode(data)
        self.at_end = not data
        self._rest = ""
        if not self.at_end:
            head, line_end, self._rest = text.rpartition("\n")
            text = head + line_end
            if len(self._rest) > MAX_LINE_BYTES:
                raise self.failed(
                    "the line is too long",
                    hint="Is this a text file?",
                    before=len(self.pending),
                )
        if text:
            # At LF alone: other characters that break lines are data.
            self.pending += StringIO(text, newline="\n")
        return bool(data) or bool(self.pending)

    def drop(self, count: int) -> list[str]:
        """Take the first *count* lines away."""
        lines = self.pending[:count]
        del self.pending[:count]
        text = "".join(lines)
        narrow = not text or (text.isascii() and self._is_narrow)
        self.line += count
        self.offset += len(text) if narrow else len(text.encode(self.encoding))
        return lines

    @property
    def _is_narrow(self) -> bool:
        """Whether an ASCII character is one byte."""
        return not self.encoding.startswith(("utf-16", "utf-32"))

    def _read(self) -> bytes:
        """Read bytes."""
        cause = ""
        try:
            # Not more than there is: a pipe may have no more for a long time.
            data: bytes = self._stream.read1(_PIECE_BYTES)
        except EOFError:
            cause = "the compressed data ends too early"
        except (gzip.BadGzipFile, zlib.error):
            cause = "this is not gzip, or it is damaged"
        else:
            return data
        raise InputError(
            f"{self.name} cannot be read: {cause}.",
            hint="Is it whole? A name that ends in .gz means that it is compressed.",
        )

    def _decode(self, data: bytes) -> str:
        """Decode bytes without keeping them in an error."""
        if not self._begun:
            self._begun = True
            self._begin(data)
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._count(error.object[: error.start])
        else:
            if "\0" not in text:
                return text
            line = text.count("\n", 0, text.index("\0"))
            line += self.line + len(self.pending) + 1
            raise InputError(
                f"{self.name}, line {line}: there is a NUL byte.",
                hint="Is this a text file?",
            )
        raise InputError(
            f"{self.name}, line {line}: this is not {self.encoding.upper()}.",
            hint="Convert the file to UTF-8, or say --encoding.",
        )

    def _count(self, before: bytes) -> int:
        """Tell the number of the line that the end of *before* is in."""
        text = before.decode(self.encoding, "replace")
        return self.line + len(self.pending) + text.count("\n") + 1

    def _begin(self, data: bytes) -> None:
        """Look at what the file begins with."""
        found = _UTF16.get(data[:2])
        if found is None:
            return
        if not self.encoding.startswith("utf-16"):
            raise InputError(
                f"{self.name}, line 1: this is UTF-16.",
                hint="Convert the file to UTF-8, or say --encoding utf-16.",
            )
        self.encoding = found

    def failed(self, what: str, *, hint: str, before: int = 0) -> InputError:
        """Say *what* is wrong with the line that is behind *before* pending ones."""
        return InputError(
            f"{self.name}, line {self.line + before + 1}: {what}.", hint=hint
        )

    def close(self) -> None:
        """Close the file.

        A pipe is left to the end of the program: closing it waits for a read that is
        under way, and that may never end.
        """
        with contextlib.suppress(UnsupportedOperation):
            if stat.S_ISREG(fstat(self._raw.fileno()).st_mode):
                self._raw.close()
