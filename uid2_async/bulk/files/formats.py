"""In which format rows are written down, and how their values are."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import Final

import attrs

from uid2_async.bulk.outcome_columns import Content
from uid2_async.errors import ConfigError, InputError

__all__ = ["STANDARD", "Format", "Layout", "format_of", "is_gzipped"]

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


def format_of(source: str, target: str, given: str | None) -> Format:
    """Tell in which format both files are.

    Args:
        source: The input's path, or ``-``.
        target: The output's path, or ``-``.
        given: What the user says; the names tell it if None, and CSV is what they do
            not call otherwise.

    Raises:
        InputError: If the names differ; or if a format whose end has
            to be read first is to come from a pipe, or to be compressed.
    """
    if given is None:
        found = {_by_name(one) for one in (source, target)} - {None}
        if len(found) > 1:
            raise InputError(
                "The input and the output are of different formats.",
                hint="Formats are not converted: give both the same suffix.",
            )
        chosen = next(iter(found), None) or Format.CSV
    elif given in set(Format):
        chosen = Format(given)
    else:
        raise InputError(
            "There is no such format.", hint=f"The formats are {', '.join(Format)}."
        )
    if not chosen.is_text:
        _refuse_streams(source, target, chosen)
    return chosen


def _refuse_streams(source: str, target: str, chosen: Format) -> None:
    """Refuse what only text can do."""
    if STANDARD in (source, target):
        raise InputError(
            f"{chosen.capitalize()} cannot be read from stdin or written to stdout.",
            hint="Name files, or use --format csv or jsonl.",
        )
    if is_gzipped(source) or is_gzipped(target):
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


def _read_encoding(encoding: str) -> str:
    """Give an encoding its usual name."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        name = ""
    if not name or not getattr(codecs.lookup(name), "_is_text_encoding", True):
        raise ConfigError(
            "There is no such encoding.", hint="Examples: utf-8, latin-1, utf-16."
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
    """

    format: Format
    added: Mapping[str, Content]
    delimiter: str = attrs.field(default=",", converter=_read_delimiter)
    encoding: str = attrs.field(default="utf-8", converter=_read_encoding)
    iso: bool | None = None
