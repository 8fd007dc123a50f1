"""In which format rows are written down, and how their values are."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Final

import attrs

from uid2_async.bulk.content import Content
from uid2_async.errors import ConfigError, InputError

__all__ = ["STANDARD", "Format", "Layout", "format_by_names", "is_gzipped"]

STANDARD: Final = "-"
"""The name that means stdin or stdout."""

_GZIP: Final = ".gz"


class Format(StrEnum):
    """How rows are written down."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def is_text(self) -> bool:
        """Whether a row is text, which can be handed on as it is."""
        return self in (Format.CSV, Format.JSONL)


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
}


def is_gzipped(path: str) -> bool:
    """Tell by its name whether a file is compressed."""
    return PurePath(path).suffix.lower() == _GZIP


def _by_name(path: str) -> Format | None:
    """Tell by its name in which format a file is."""
    name = PurePath(path)
    if is_gzipped(path):
        name = name.with_suffix("")
    return _SUFFIXES.get(name.suffix.lower())


def format_by_names(names: Sequence[str], given: str | None) -> Format:
    """Tell in which format files are.

    Args:
        names: Their paths; ``-`` is stdin or stdout.
        given: What the user says; the names tell it if None, and CSV is what they do
            not call otherwise.

    Raises:
        InputError: If the names differ; or if a format whose end has to be read first
            is to come from a pipe, or to be compressed.
    """
    if given is None:
        chosen = _by_names(names)
    elif given in set(Format):
        chosen = Format(given)
    else:
        raise InputError(
            "There is no such format.", hint=f"The formats are {', '.join(Format)}."
        )
    if not chosen.is_text:
        _refuse_streams(names, chosen)
    return chosen


def _by_names(names: Sequence[str]) -> Format:
    """Tell by their names in which format files are."""
    found = {one for one in map(_by_name, names) if one is not None}
    if len(found) > 1:
        raise InputError(
            "The input and the output are of different formats.",
            hint="Formats are not converted: give both the same suffix.",
        )
    return found.pop() if found else Format.CSV


def _refuse_streams(names: Sequence[str], chosen: Format) -> None:
    """Refuse what only text can do."""
    if STANDARD in names:
        raise InputError(
            f"{chosen.capitalize()} cannot be read from stdin or written to stdout.",
            hint="Name files, or use --format csv or jsonl.",
        )
    if any(map(is_gzipped, names)):
        raise InputError(
            f"{chosen.capitalize()} is not compressed as a whole.",
            hint="Such files compress their columns by themselves.",
        )


def _read_delimiter(delimiter: str) -> str:
    """Refuse a delimiter that the csv module does not take."""
    try:
        csv.reader([], delimiter=delimiter, strict=True)
    except (TypeError, ValueError):
        pass
    else:
        if delimiter not in '"\r\n' and len(delimiter) == 1:
            return delimiter
    raise ConfigError(
        "A delimiter is one character, and no quote or line end.",
        hint="Examples: --delimiter ';' or --delimiter '\\t'.",
    )


def _is_for_text(encoding: str) -> bool:
    """Tell encodings from the other codecs of Python, such as hex."""
    return bool(encoding) and getattr(
        codecs.lookup(encoding), "_is_text_encoding", True
    )


def _read_encoding(encoding: str) -> str:
    """Give an encoding its usual name."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        name = ""
    # Where what a byte means depends on those before, no job could be gone on with.
    if name.startswith(("hz", "iso2022", "utf-7")) or not _is_for_text(name):
        raise ConfigError(
            "There is no such encoding, or none that can be read in parts.",
            hint="Examples: utf-8, latin-1, utf-16.",
        )
    # The byte order mark is kept as it is, where there is one.
    return "utf-8" if name == "utf-8-sig" else name


@attrs.frozen(kw_only=True)
class Layout:
    """How the rows of a job are written down.

    Attributes:
        format: In which format.
        added: The columns that are added, in order, and what stands in each.
        delimiter: What separates the fields of CSV.
        encoding: The encoding of CSV.
        iso: Whether instants are text; None for what is usual in the format.
        spreadsheet_safe: Whether CSV fields that a spreadsheet would run as formulas
            get a ``'`` before them; this changes data.
    """

    format: Format
    added: Mapping[str, Content]
    delimiter: str = attrs.field(default=",", converter=_read_delimiter)
    encoding: str = attrs.field(default="utf-8", converter=_read_encoding)
    iso: bool | None = None
    spreadsheet_safe: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what only CSV needs."""
        if self.spreadsheet_safe and self.format is not Format.CSV:
            raise ConfigError("Only CSV is made safe for spreadsheets.")
