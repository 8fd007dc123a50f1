"""Values that a command takes: from arguments, from a file or from stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, Final, cast

from uid2_async._private import RedactedRepr
from uid2_async.bulk.paths import STDIO
from uid2_async.errors import InputError
from uid2_async.models import (
    Email,
    EmailHash,
    Identity,
    Phone,
    PhoneHash,
    as_identity,
)

_TYPES: Final = {one.kind: one for one in (Email, EmailHash, Phone, PhoneHash)}
_BLOCK_BYTES: Final = 256 * 1024


def as_kind(value: str, kind: str | None) -> Identity:
    """Make an identity of *kind*; where that is None, a leading ``+`` means a phone."""
    return as_identity(value) if kind is None else _TYPES[kind](value)


def read_lines(arguments: Sequence[str], file: str | None) -> Iterator[str]:
    """Read values: the arguments, or each line of a file or of stdin.

    Args:
        arguments: The values themselves, or ``-`` alone for stdin.
        file: A path, or ``-`` for stdin; None where *arguments* are meant.

    Yields:
        One value at a time, line ends removed and nothing else.

    Raises:
        InputError: If there are none, both are given, or the text cannot be read.
    """
    path = source_of(arguments, file)
    if path is None:
        yield from arguments
    else:
        for block in read_blocks(path):
            yield from block.lines()


def source_of(arguments: Sequence[str], file: str | None) -> str | None:
    """Return the path that values are read from; None if *arguments* are the values.

    Raises:
        InputError: As :func:`read_lines`.
    """
    if file is not None and arguments:
        raise InputError("Give values or --file, not both.")
    if file is None and not arguments:
        raise InputError("No value is given.", hint="Give values, --file FILE, or -.")
    if file is None and STDIO not in arguments:
        return None
    if file is None and len(arguments) > 1:
        raise InputError("- stands for stdin and must be the only value.")
    return file or STDIO


def read_one(argument: str | None, file: str | None) -> str:
    """Read exactly one value, as :func:`read_lines` does.

    Raises:
        InputError: If there is none or more than one.
    """
    lines = read_lines([] if argument is None else [argument], file)
    value = next(lines, None)
    if value is None or next(lines, None) is not None:
        raise InputError("One value is needed: one line, no more.")
    return value


def read_text(path: str) -> str:
    """Read a whole file, or stdin where *path* is ``-``; outer white space goes.

    Raises:
        InputError: If it cannot be read.
    """
    return "\n".join(read_lines([], path)).strip()


class LineBlock(RedactedRepr, frozen=True):
    """Some whole lines of a file, which another process can decode.

    Attributes:
        name: The file's name.
        first: The number of its first line, from 1.
        data: The lines.
    """

    name: str
    first: int
    data: bytes

    def lines(self) -> Iterator[str]:
        """Decode UTF-8, with or without a byte order mark; line ends are removed.

        Raises:
            InputError: If a line is not UTF-8; says which one, after those before it.
        """
        data, bad = self.data, None
        if self.first == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            data = data[: data.rfind(b"\n", 0, error.start) + 1]
            text, bad = data.decode(), self.first + data.count(b"\n")
        lines = text.split("\n")
        if not lines[-1]:
            del lines[-1]
        yield from (line.removesuffix("\r") for line in lines)
        if bad is not None:
            raise InputError(
                f"{self.name}, line {bad}: this is not UTF-8.",
                hint="Convert it to UTF-8.",
            )


def read_blocks(path: str) -> Iterator[LineBlock]:
    """Read a file, or stdin where *path* is ``-``, as it comes.

    Raises:
        InputError: If it cannot be opened.
    """
    first, held = 1, list[bytes]()
    with ExitStack() as stack:
        if path == STDIO:
            name, stream = "stdin", sys.stdin.buffer
        else:
            name, stream = path, stack.enter_context(_open(path))
        while piece := cast("BufferedIOBase", stream).read1(_BLOCK_BYTES):
            end = piece.rfind(b"\n") + 1
            held.append(piece[:end] if end else piece)
            if end:
                yield LineBlock(name, first, data := b"".join(held))
                first += data.count(b"\n")
                held = [piece[end:]]
    if last := b"".join(held):
        yield LineBlock(name, first, last)


def _open(path: str) -> BinaryIO:
    """Open a file that the user names."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise InputError(f"{path} cannot be read: {cause}.", hint="Check the path.")
