"""How a file is to be read, asked about and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.national_phones import PHONE, NationalPhones
from uid2_async.bulk.outcome_columns import OptOutRule
from uid2_async.errors import ConfigError
from uid2_async.protocol.normalize import KINDS

__all__ = ["Api", "MapOptions", "Names", "RefreshFrom"]


class Names(StrEnum):
    """How the added columns are called."""

    UPPER = "upper"
    SNAKE = "snake"


class RefreshFrom(StrEnum):
    """How an instant is written; Parquet and Arrow have a type of their own for it."""

    EPOCH = "epoch"
    ISO = "iso"


class Api(StrEnum):
    """Which endpoint maps: the current one, or the old one with salt buckets."""

    V3 = "v3"
    V2 = "v2"


def _check_kinds(_: object, __: object, identifiers: Mapping[str, str]) -> None:
    """Refuse a kind of identifier that there is not."""
    if any(kind not in KINDS for kind in identifiers):
        raise ConfigError(f"An identifier is one of {', '.join(KINDS)}.")


@attrs.frozen(kw_only=True)
class MapOptions:
    """What decides about the output of :func:`~uid2_async.map_file`.

    All but *max_removed* must stay the same while a job is resumed.

    Attributes:
        column: The column of the identifiers; INPUT by default.
        type: What they are: ``email``, ``phone``, ``email_hash`` or ``phone_hash``; by
            default the column INPUT_TYPE tells it for each row.
        identifiers: Instead of *column* and *type*: several columns by type, in order
            of preference.
        country: The two letters of the country whose phones are written nationally,
            such as ``030 123456``; needs the extra ``phone``.
        country_column: The column that tells the country of each row; where it is
            empty, it is *country*.
        format: ``csv``, ``jsonl``, ``parquet`` or ``arrow``; by default the name of the
            file tells.
        delimiter: What separates the fields of a CSV file.
        encoding: The encoding of a CSV file.
        spreadsheet_safe: Whether CSV fields that begin with ``= + - @``, a tab or CR
            get a ``'`` before them, in all columns: it changes data, phones and some
            raw UIDs too, and is for files that people open in a spreadsheet.
        names: How the added columns are called.
        refresh_from: How REFRESH_FROM is written; by default as seconds since the
            epoch, in Parquet and Arrow as a timestamp.
        optout_rule: What an opt-out means for a row with several identifiers.
        explode: Whether each identifier gets a row of its own.
        api: Which endpoint maps.
        keys: The columns of the input that the delta repeats.
        full: Whether the input is the whole audience, so that who is missing from it is
            REMOVED.
        segment: The name of that audience.
        max_removed: Which share of it may be removed at once.
    """

    column: str | None = None
    type: str | None = None
    identifiers: Mapping[str, str] = attrs.field(factory=dict, validator=_check_kinds)
    country: str | None = None
    country_column: str | None = None
    format: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8"
    spreadsheet_safe: bool = False
    names: Names = attrs.field(default=Names.UPPER, converter=Names)
    refresh_from: RefreshFrom | None = attrs.field(
        default=None, converter=attrs.converters.optional(RefreshFrom)
    )
    optout_rule: OptOutRule = attrs.field(default=OptOutRule.ANY, converter=OptOutRule)
    explode: bool = False
    api: Api = attrs.field(default=Api.V3, converter=Api)
    keys: Sequence[str] = ()
    full: bool = False
    segment: str = "default"
    max_removed: float = 0.05

    def __attrs_post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.identifiers and (self.column or self.type):
            raise ConfigError(
                "Either one column is named, or several by their types; not both."
            )
        if self.type is not None and self.type not in KINDS:
            raise ConfigError(f"The type is one of {', '.join(KINDS)}.")
        if self._is_national() and not self._has_phones():
            raise ConfigError(
                "A country is for phones, and no column holds any.",
                hint="Name a column of phones, or leave the country out.",
            )
        if not 0 <= self.max_removed <= 1:
            raise ConfigError("max_removed is a share, from 0 to 1.")

    def _is_national(self) -> bool:
        return self.country is not None or self.country_column is not None

    def _has_phones(self) -> bool:
        """Tell whether there may be phones; INPUT_TYPE may call any row one."""
        if self.identifiers:
            return PHONE in self.identifiers
        return self.type in (None, PHONE)

    def national_phones(self) -> NationalPhones | None:
        """Make what brings phones into E.164, if a country is named; blocks for 0.2 s.

        Raises:
            InputError: If the country is not known, or the extra ``phone`` is not
                installed.
        """
        if not self._is_national():
            return None
        return NationalPhones(self.country, self.country_column)

    def terms(self) -> dict[str, Any]:
        """List what must stay the same, as JSON can hold it."""
        terms = attrs.asdict(self)
        # A bound that stopped a job is raised to let it go on.
        del terms["max_removed"]
        return terms


strip_tracebacks(globals())
