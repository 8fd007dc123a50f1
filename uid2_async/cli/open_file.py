"""Opening a file that the user names, or saying why it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from uid2_async.errors import InputError

__all__ = ["open_file"]


def open_file(path: str) -> BinaryIO:
    """Open *path* for reading bytes.

    Raises:
        InputError: If it cannot be opened.
    """
    try:
        return Path(path).open("rb")
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise InputError(f"{path} cannot be read: {cause}.", hint="Check the path.")
