"""Which columns of a file hold identifiers, and of which kind they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from uid2_async.bulk.batches import STEP_ROWS, IdentityColumn as Named
from uid2_async.bulk.files.chunk import Chunk
from uid2_async.bulk.national_phones import NationalPhones
from uid2_async.errors import InputError

__all__ = ["IdentifierColumns", "find_column", "find_identifiers", "refuse_taken"]

VALUE_NAME: Final = "INPUT"
KIND_NAME: Final = "INPUT_TYPE"

# What libphonenumber needs for each is five times what all else takes.
_PHONE_STEP_ROWS: Final = 50

# An e-mail address, a number of seven digits or more, or a hash, raw UID or token.
_DII: Final = re.compile(r"@|(\d[^\w]{0,2}){7}|[A-Za-z0-9+/_-]{43}")


class IdentifierColumns:
    """Takes the identifiers out of some rows.

    Attributes:
        kinds: What each column holds; of one whose kind the row itself tells, the name
            of the column of kinds.
        wanted: The columns that are read.
        step_rows: How many rows are to be taken at once: below 5 ms of CPU.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        kind_column: str | None = None,
        phones: NationalPhones | None = None,
        country_column: str | None = None,
    ) -> None:
        """Read *columns*.

        Args:
            columns: The names of the columns, by kind and in order of preference.
            kind_column: The column that tells the kind of the only one, if none does.
            phones: What brings phones into E.164; None to take them as they are.
            country_column: The column that tells *phones* the country, if one does.
        """
        self._columns = columns
        self._kind_column = kind_column
        self._phones = phones
        self._country_column = country_column
        self.kinds: tuple[str, ...] = tuple(columns)
        self.wanted: list[str] = [*columns.values()]
        self.wanted += [one for one in (kind_column, country_column) if one is not None]
        self.step_rows: int = STEP_ROWS if phones is None else _PHONE_STEP_ROWS

    def identities(self, chunk: Chunk) -> list[Named]:
        """List the identifiers of some rows, a list for each column.

        What is empty is no identifier.
        """
        named = self._read(chunk)
        if self._phones is None:
            return named
        name = self._country_column
        countries = None if name is None else chunk.values(name)
        return [self._phones.rewrite(one, countries) for one in named]

    def _read(self, chunk: Chunk) -> list[Named]:
        """List them as they are written."""
        if self._kind_column is not None:
            (name,) = self._columns.values()
            kinds = [one.strip().lower() for one in chunk.values(self._kind_column)]
            return [Named(kinds, [one or None for one in chunk.values(name)])]
        return [
            Named(kind, [one or None for one in chunk.values(name)])
            for kind, name in self._columns.items()
        ]


def find_identifiers(
    header: Sequence[str],
    *,
    column: str | None,
    kind: str | None,
    several: Mapping[str, str],
    phones: NationalPhones | None = None,
) -> IdentifierColumns:
    """Find the columns of the identifiers in *header*.

    Args:
        header: The names of the columns.
        column: The name of the only one; ``INPUT`` if None.
        kind: What it holds; the column ``INPUT_TYPE`` tells it if None.
        several: Instead of these: the names of several columns by kind.
        phones: What brings phones into E.164; None to take them as they are.

    Raises:
        InputError: If a column is missing or there twice; lists the columns.
    """
    country = None if phones is None else phones.column
    if country is not None:
        hint = "Name the column that tells the country: --country-column NAME."
        country = _find_name(header, country, hint=hint)
    if several:
        columns = {
            kind: _find_name(header, name, hint=f"Name the column of {kind}.")
            for kind, name in several.items()
        }
        return IdentifierColumns(columns, phones=phones, country_column=country)
    hint = f"Name the column with identifiers: --column NAME, or {VALUE_NAME}."
    value = _find_name(header, column or VALUE_NAME, hint=hint)
    if kind is not None:
        return IdentifierColumns({kind: value}, phones=phones, country_column=country)
    hint = f"Say what all rows are with --type, or add a column {KIND_NAME}."
    kinds = _find_name(header, KIND_NAME, hint=hint)
    return IdentifierColumns(
        {kinds: value}, kind_column=kinds, phones=phones, country_column=country
    )


def _find_name(header: Sequence[str], name: str, *, hint: str) -> str:
    """Tell how a column is called in the file; JSON lines without rows tell none."""
    return header[find_column(header, name, hint=hint)] if header else name


def refuse_taken(header: Iterable[str], added: Iterable[str]) -> None:
    """Refuse a *header* that has one of the columns that will be *added*.

    Raises:
        InputError: If one of them is there, in any letter case.
    """
    names = {name.casefold() for name in added}
    taken = [name for name in header if name.casefold() in names]
    if taken:
        raise InputError(
            f"The input already has a column {_quoted(taken)}.",
            hint=f"Rename or drop it: {', '.join(added)} are appended.",
        )


def find_column(header: Sequence[str], name: str, *, hint: str) -> int:
    """Find a column by its name, in any letter case where no other one is so called.

    Raises:
        InputError: If there is none or more than one; lists the columns, and gives
            *hint*.
    """
    exact = [at for at, one in enumerate(header) if one == name]
    found = exact or [
        at for at, one in enumerate(header) if one.casefold() == name.casefold()
    ]
    if len(found) == 1:
        return found[0]
    if any(_DII.search(one) for one in header):
        # To list the columns would show somebody's identity.
        raise InputError(
            f"There is no column {_quoted([name])}: the first row looks like data.",
            hint="Put a row with the names of the columns first.",
        )
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
        hint = "The fields are separated by something else: say --delimiter."
    what = "more than one column" if found else "no column"
    raise InputError(
        f"There is {what} {_quoted([name])}. The columns are: {_quoted(header)}.",
        hint=hint,
    )


def _quoted(names: Iterable[str]) -> str:
    """List names of columns."""
    return ", ".join(f"'{name}'" for name in names)
