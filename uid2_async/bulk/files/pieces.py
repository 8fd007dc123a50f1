"""The lines of a text file, read a piece at a time and decoded without a trace."""

from __future__ import annotations

import codecs
import gzip
import stat
import zlib
from io import BufferedIOBase, StringIO
from os import fstat
from typing import Final

import msgspec

from uid2_async.errors import InputError

__all__ = ["MAX_LINE_CHARS", "Lines", "Position"]

MAX_LINE_CHARS: Final = 64 * 1024 * 1024

_PIECE_BYTES: Final = 1024 * 1024
# Those of UTF-32 are first: one of them begins as one of UTF-16 does.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_LONGEST_MARK: Final = 4
_WIDE: Final = ("utf-16", "utf-32")
# Text in these has one way to be written. Others have several, or forget some.
_EXACT: Final = frozenset(
    {"ascii", "iso8859-1", "utf-8", *(name for _, name in _MARKS)}
)


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
        mark: Its byte order mark, decoded; empty where it has none. No line has it.
        pending: Lines that have been loaded and not been dropped, with their ends.
        line: How many lines were before *pending*.
        offset: How many bytes were.
        at_end: Whether all has been loaded.
    """

    def __init__(
        self,
        stream: BufferedIOBase,
        *,
        name: str,
        encoding: str,
        gzipped: bool = False,
    ) -> None:
        """Read from *stream*, which is closed by :meth:`close`."""
        self.name: str = name
        self.encoding: str = encoding
        self.mark: str = ""
        self.pending: list[str] = []
        self.line: int = 0
        self.offset: int = 0
        self.at_end: bool = False
        self._raw = stream
        self._stream = stream
        # Of a pipe, what is there: who writes to it may be slow.
        self._read_some = stream.read1
        if gzipped:
            self._stream = gzip.GzipFile(fileobj=stream, mode="rb")
            self._read_some = self._stream.read
        self._is_reading = False
        self._rest = ""
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def bytes_read(self) -> int:
        """How much of the file on disk has been read."""
        try:
            return self._raw.tell()
        except OSError:
            return self.offset

    def seek(self, position: Position) -> None:
        """Go on behind rows that were read in an earlier life.

        The beginning has been loaded before, since it tells the encoding.
        """
        self._stream.seek(position.offset)
        self.pending, self._rest = [], ""
        self.line, self.offset = position.line, position.offset
        self.at_end = False
        self._decoder = codecs.getincrementaldecoder(self.encoding)("strict")

    def load(self) -> bool:
        """Read another piece; False if there is nothing more to look at.

        Raises:
            InputError: If it cannot be read or decoded, or a line does not end.
        """
        if self.at_end:
            return False
        data = self._read() if self._decoder else self._begin()
        text = self._rest + self._decode(data)
        self.at_end = not data
        self._rest = ""
        if not self.at_end:
            head, line_end, self._rest = text.rpartition("\n")
            text = head + line_end
        # At LF alone: other characters that break lines are data.
        self.pending += StringIO(text, newline="\n")
        if len(self._rest) > MAX_LINE_CHARS:
            raise self.failed(
                "the line is too long",
                hint="Is this a text file?",
                before=len(self.pending),
            )
        return bool(data) or bool(self.pending)

    def drop(self, count: int) -> None:
        """Take the first *count* lines away."""
        text = "".join(self.pending[:count])
        del self.pending[:count]
        self.line += count
        is_narrow = text.isascii() and not self.encoding.startswith(
            ("utf-16", "utf-32")
        )
        self.offset += len(text) if is_narrow else len(text.encode(self.encoding))

    def _read(self) -> bytes:
        """Read bytes."""
        hint = "Is it whole? A name that ends in .gz means that it is compressed."
        self._is_reading = True
        try:
            return self._read_some(_PIECE_BYTES)
        except EOFError:
            cause = "the compressed data ends too early"
        except (gzip.BadGzipFile, zlib.error):
            cause = "this is not gzip, or it is damaged"
        except OSError as error:
            cause = error.strerror or type(error).__name__
            hint = "Check the file and its disk."
        finally:
            self._is_reading = False
        raise InputError(f"{self.name} cannot be read: {cause}.", hint=hint)

    def _begin(self) -> bytes:
        """Read the first piece, and take the byte order mark off.

        Raises:
            InputError: If the mark and the given encoding contradict each other.
        """
        data = self._read()
        while 0 < len(data) < _LONGEST_MARK and (more := self._read()):
            data += more
        mark, found = next(
            (one for one in _MARKS if data.startswith(one[0])), (b"", self.encoding)
        )
        family = found.removesuffix("-le").removesuffix("-be")
        if not self.encoding.startswith(family):
            raise self.failed(
                f"this is {family.upper()}",
                hint=f"Convert the file to UTF-8, or say --encoding {family}.",
            )
        if data and found in _WIDE:
            raise self.failed(
                "there is no byte order mark",
                hint=f"Say --encoding {found}-le or {found}-be.",
            )
        self.encoding = found
        self.mark = mark.decode(found)
        self.offset = len(mark)
        self._decoder = codecs.getincrementaldecoder(found)("strict")
        return data.removeprefix(mark)

    def _decode(self, data: bytes) -> str:
        """Decode bytes without keeping them in an error."""
        assert self._decoder is not None  # noqa: S101 - by _begin
        before, _ = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            bad = error.object[: error.start].decode(self.encoding, "replace")
        else:
            rest, _ = self._decoder.getstate()
            self._check_text(text, before + data, rest)
            return text
        raise self.failed(
            f"this is not {self.encoding.upper()}",
            hint="Convert the file to UTF-8, or say --encoding.",
            before=len(self.pending) + bad.count("\n"),
        )

    def _check_text(self, text: str, data: bytes, rest: bytes) -> None:
        """Refuse text that would not become *data*, less its *rest*, when written."""
        if "\0" in text:
            raise self.failed(
                "there is a NUL byte",
                hint="Is this a text file, and not UTF-16 (--encoding utf-16-le)?",
                before=len(self.pending) + text.count("\n", 0, text.index("\0")),
            )
        if self.encoding not in _EXACT and _encode(text, self.encoding) + rest != data:
            raise InputError(
                f"{self.name}: some of it cannot be written again in {self.encoding}.",
                hint="Convert the file to UTF-8.",
            )

    def failed(self, what: str, *, hint: str, before: int = 0) -> InputError:
        """Say *what* is wrong with the line that is behind *before* pending ones."""
        return InputError(
            f"{self.name}, line {self.line + before + 1}: {what}.", hint=hint
        )

    def close(self) -> None:
        """Close the file.

        A pipe that is being read, in a thread, is left to the end of the program:
        closing it waits for that read, which may never end.
        """
        try:
            mode = fstat(self._raw.fileno()).st_mode
        except (OSError, ValueError):
            return  # in memory, or closed before
        if stat.S_ISREG(mode) or not self._is_reading:
            self._raw.close()


def _encode(text: str, encoding: str) -> bytes:
    """Encode without keeping the text in an error; what cannot be is a lone zero."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return b"\0"
