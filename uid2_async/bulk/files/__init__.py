"""The files of bulk work: rows in, the same rows with more columns out.

CSV, JSON lines, Parquet and Arrow, read and written some rows at a time, so that their
size does not matter. What was in them stays as it was; no message shows a value.
"""

from __future__ import annotations

from uid2_async.bulk.files.chunk import Chunk, Reader
from uid2_async.bulk.files.columns import IdentifierColumns, find_identifiers
from uid2_async.bulk.files.formats import STANDARD, Format, Layout
from uid2_async.bulk.files.opening import open_output, open_reader
from uid2_async.bulk.files.output import Formatted, Output
from uid2_async.bulk.files.paths import (
    FilePair,
    check_targets,
    expand,
    format_of,
    identify,
)

__all__ = [
    "STANDARD",
    "Chunk",
    "FilePair",
    "Format",
    "Formatted",
    "IdentifierColumns",
    "Layout",
    "Output",
    "Reader",
    "check_targets",
    "expand",
    "find_identifiers",
    "format_of",
    "identify",
    "open_output",
    "open_reader",
]
