"""Values for a command, from arguments, a file or stdin."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from uid2_async.bulk.paths import STDIO, attempt_read
from uid2_async.errors import InputError
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash, as_identity

# The first bytes of a SQLite file that is not empty.
_DATABASE: Final = b"SQLite format 3\0"
_TYPES: Final = {one.kind: one for one in (Email, EmailHash, Phone, PhoneHash)}


def as_kind(value: str, kind: str | None) -> Identity:
    """Make an identity of *kind*; if it is None, a leading ``+`` means a phone."""
    return as_identity(value) if kind is None else _TYPES[kind](value)


def find_state(path: str, hint: str = "Check the path.") -> Path:
    """Return the path of a state, which must exist.

    Raises:
        InputError: If it does not exist, or is not a database.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"There is no state {path}.", hint=hint)
    start = b"not a file"
    if file.is_file():
        with attempt_read(file, lambda: file.open("rb")) as stream:
            start = stream.read(len(_DATABASE))
    if start not in (_DATABASE, b""):
        raise InputError(f"{path} is not a state.", hint=hint)
    return file


def read_lines(arguments: Sequence[str], file: str | None = None) -> Iterator[str]:
    """Yield values as they arrive: *arguments*, or the lines of *file* or of stdin.

    ``-`` is stdin, as the only argument or as the file.

    Raises:
        InputError: If there are no values, both are given, or a line cannot be read.
    """
    if file is not None and arguments:
        raise InputError("Give values or --file, not both.")
    if file is None and not arguments:
        raise InputError("No value was given.", hint="Give values, --file FILE, or -.")
    if file is None and STDIO not in arguments:
        yield from arguments
        return
    if file is None and len(arguments) > 1:
        raise InputError("- means stdin, and must be the only value.")
    if file in (None, STDIO):
        yield from _decode("stdin", sys.stdin.buffer)
    else:
        path = Path(file or "")
        with attempt_read(path, lambda: path.open("rb")) as stream:
            yield from _decode(file or "", stream)


def _decode(name: str, lines: Iterable[bytes]) -> Iterator[str]:
    """Decode lines of UTF-8, with or without a byte order mark."""
    for number, line in enumerate(lines, 1):
        data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = None
        if text is None:
            raise InputError(
                f"{name}, line {number}: this is not UTF-8.",
                hint="Convert it to UTF-8.",
            )
        yield text.removesuffix("\n").removesuffix("\r")


def read_one(argument: str | None, file: str | None) -> str:
    """Read exactly one value, as :func:`read_lines` does."""
    lines = read_lines([] if argument is None else [argument], file)
    value = next(lines, None)
    if value is None or next(lines, None) is not None:
        raise InputError("Exactly one value is needed, on one line.")
    return value


def read_text(path: str) -> str:
    """Read a whole file, or stdin if *path* is ``-``, without outer white space."""
    return "\n".join(read_lines([], path)).strip()
