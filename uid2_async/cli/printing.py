"""What commands print: text that cannot steer a terminal, and JSON in ASCII."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from uid2_async._printable import printable

__all__ = ["dump_json", "print_lines", "print_to_stderr"]


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, for people."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
    # A sandbox whose stdout is a pipe says where it is before it ends.
    sys.stdout.flush()


def print_to_stderr(line: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"{printable(line)}\n")


def dump_json(fields: Any, *, indent: int | None = None) -> str:
    """Write *fields* as JSON in ASCII, which shows everything else as escapes."""
    return json.dumps(msgspec.to_builtins(fields), indent=indent) + "\n"
