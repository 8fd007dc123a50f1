"""Phones as people write them, made into what the operator takes, in rows of a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from uid2_async.bulk.batches import IdentityColumn as Named
from uid2_async.phones import PhoneFault, check_country, load_countries, to_sendable

__all__ = ["PHONE", "NationalPhones"]

PHONE: Final = "phone"
"""The kind of identities that it is about."""


class NationalPhones:
    """Brings phones into E.164, as :func:`~uid2_async.phones.to_sendable` does.

    Attributes:
        column: The column that tells the country of each row, or None.
    """

    def __init__(self, country: str | None, column: str | None) -> None:
        """Take phones as they are written in one country, or in that of their row.

        Args:
            country: The two letters of the country; with *column*, that of the rows
                where it is empty.
            column: The column that tells it.

        Raises:
            InputError: If *country* is not known, or the extra ``phone`` is not
                installed.
        """
        if country is not None:
            check_country(country)
        load_countries()
        self.column: str | None = column
        self._country = country

    def rewrite(self, named: Named, countries: Sequence[str] | None) -> Named:
        """Rewrite the phones among the identities of some rows.

        Args:
            named: The identities; those of other kinds stay.
            countries: The country of each row, if there is a column that tells it.

        Returns:
            The same, with faults where a phone is none; its value stays.
        """
        kinds = named.kinds
        if isinstance(kinds, str) and kinds != PHONE:
            return named
        values = list(named.values)
        faults: dict[int, PhoneFault] = {}
        for row, value in enumerate(values):
            kind = kinds if isinstance(kinds, str) else kinds[row]
            if value is None or kind != PHONE:
                continue
            told = "" if countries is None else countries[row].strip()
            found = to_sendable(value, told or self._country)
            if isinstance(found, PhoneFault):
                faults[row] = found
            else:
                values[row] = found
        return Named(kinds, values, faults)
