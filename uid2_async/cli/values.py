"""Values that a command takes: from arguments, from a file or from stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from uid2_async.cli.open_file import open_file
from uid2_async.errors import InputError
from uid2_async.models import (
    Email,
    EmailHash,
    Identity,
    Phone,
    PhoneHash,
    as_identity,
)

__all__ = [
    "as_kind",
    "decode_lines",
    "read_lines",
    "read_one",
    "read_text",
    "source_of",
]

STANDARD = "-"

_TYPES = {one.kind: one for one in (Email, EmailHash, Phone, PhoneHash)}


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
    yield from arguments if path is None else _decoded(path)


def source_of(arguments: Sequence[str], file: str | None) -> str | None:
    """Give the path that values are read from, ``-`` for stdin; None: the arguments.

    Raises:
        InputError: As :func:`read_lines`.
    """
    if file is not None and arguments:
        raise InputError("Give values or --file, not both.")
    if file is None and not arguments:
        raise InputError("No value is given.", hint="Give values, --file FILE, or -.")
    if file is None and STANDARD not in arguments:
        return None
    if file is None and len(arguments) > 1:
        raise InputError("- stands for stdin and must be the only value.")
    return file or STANDARD


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
    return "\n".join(_decoded(path)).strip()


def _decoded(path: str) -> Iterator[str]:
    """Decode the lines of *path*."""
    if path == STANDARD:
        yield from decode_lines(sys.stdin.buffer, "stdin")
        return
    with open_file(path) as stream:
        yield from decode_lines(stream, path)


def decode_lines(
    stream: Iterable[bytes], name: str, *, first: int = 1
) -> Iterator[str]:
    """Decode UTF-8, with or without a byte order mark; line ends are removed.

    Args:
        stream: The lines.
        name: What they are lines of.
        first: The number of the first of them.

    Raises:
        InputError: If a line is none; says which one of *name*.
    """
    for number, data in enumerate(stream, first):
        line = _decode(data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data)
        if line is None:
            raise InputError(
                f"{name}, line {number}: this is not UTF-8.",
                hint="Convert it to UTF-8.",
            )
        yield line.removesuffix("\n").removesuffix("\r")


def _decode(data: bytes) -> str | None:
    """Decode without keeping the bytes in an error."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
