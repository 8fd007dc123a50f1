"""The files of a job: the input as it is, the output whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, TextIO, cast

from uid2_async.cli.open_file import open_file
from uid2_async.errors import InputError

__all__ = ["STANDARD", "check_target", "open_source", "open_target", "size_of"]

STANDARD: Final = "-"
"""The name that means stdin or stdout."""


def check_target(target: str, *, source: str, force: bool) -> None:
    """Refuse an output that must not be written, before any work is done.

    Args:
        target: The output's path, or ``-``.
        source: The input's path, or ``-``.
        force: Whether an existing file may be replaced.

    Raises:
        InputError: If the output exists and *force* is off; is the input; is a folder
            or a device; or lies in a folder that does not exist.
    """
    if target == STANDARD:
        return
    path = Path(target)
    mode = _mode_of(path)
    if mode is None:
        if not _real(path).parent.is_dir():
            raise InputError(
                f"The folder of {target} does not exist.", hint="Make it first."
            )
        return
    if source != STANDARD and path.samefile(source):
        raise InputError("IN and OUT are the same file.", hint="Write to another file.")
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{target} is not a regular file.", hint="Name a file, or - for stdout."
        )
    if not force:
        raise InputError(
            f"{target} already exists.", hint="Pass --force to replace it."
        )


def _mode_of(path: Path) -> int | None:
    """Tell what kind of file *path* is; None where there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _real(path: Path) -> Path:
    """Follow symbolic links, so that what they point to is replaced and not they."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def open_source(source: str) -> Iterator[BinaryIO]:
    """Open the input for reading bytes; ``-`` is stdin.

    Raises:
        InputError: If it cannot be opened.
    """
    if source == STANDARD:
        yield _standard(sys.stdin, "rb")
        return
    stream = open_file(source)
    try:
        yield stream
    finally:
        # Closing a pipe waits for a read that is under way, and it may never end.
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()


@contextlib.contextmanager
def open_target(target: str) -> Iterator[TextIO]:
    """Open the output for writing text; ``-`` is stdout.

    A file is written beside its place under a temporary name, readable by its owner
    alone, and takes its place when the block ends. Where the block fails, nothing is
    left behind and an older file stays.

    Raises:
        InputError: If the folder cannot be written to.
    """
    if target == STANDARD:
        # UTF-8 whatever the locale says, and line ends as they are.
        text = io.TextIOWrapper(
            _standard(sys.stdout, "wb"), encoding="utf-8", newline=""
        )
        try:
            yield text
            text.flush()
        except Exception:
            with contextlib.suppress(OSError):
                text.detach()
            raise
        text.detach()
        return
    path = _real(Path(target))
    temporary = _make_temporary(path)
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_temporary(path: Path) -> Path:
    """Make an empty file beside *path* with mode 0600."""
    cause = ""
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial"
        )
    except OSError as error:
        cause = error.strerror or type(error).__name__
    else:
        os.close(descriptor)
        return Path(name)
    raise InputError(
        f"The folder of {path.name} cannot be written to: {cause}.",
        hint="Name a file in a folder of your own.",
    )


def _standard(stream: TextIO, mode: str) -> BinaryIO:
    """Open stdin or stdout anew, with a buffer of its own.

    A thread may still be blocked in it when the program ends; with Python's own buffer
    that is a fatal error of the interpreter.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream.buffer  # replaced, by a test for one
    return cast("BinaryIO", open(descriptor, mode, closefd=False))


def size_of(source: str) -> int | None:
    """Tell how many bytes the input has; None for stdin and other streams."""
    if source == STANDARD:
        return None
    found = Path(source).stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else None
