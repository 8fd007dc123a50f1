"""Converts national phone numbers to E.164, the only format that operators accept.

Operators do not convert phone numbers (docs/protocol.md 3.2). The numbering plans of
the countries come from Google's libphonenumber, which the extra ``phone`` installs.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["PhoneFault", "check_country", "load_countries", "to_e164", "to_sendable"]


class PhoneFault(Enum):
    """Why a text is not a phone number. Not a str, so that it cannot pass for a number.

    The value is an identifier to store. :attr:`sentence` is for people to read.
    """

    NOT_A_NUMBER = "not_a_number"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NOT_VALID = "not_valid"
    UNKNOWN_COUNTRY = "unknown_country"
    DECIMAL = "decimal"

    @property
    def code(self) -> str:
        """The fault as one word, for the column ERROR of a file."""
        return f"PHONE_{self.name}"

    @property
    def sentence(self) -> str:
        """A sentence that describes the fault."""
        return _SENTENCES[self][0]

    @property
    def hint(self) -> str:
        """How to fix it."""
        return _SENTENCES[self][1]


_SENTENCES: Final = {
    PhoneFault.NOT_A_NUMBER: (
        "The text is not a phone number.",
        "Use one number per field, with or without a country code.",
    ),
    PhoneFault.TOO_SHORT: (
        "The phone number is too short.",
        "Check for a missing area code. Operators accept 10 digits or more.",
    ),
    PhoneFault.TOO_LONG: (
        "The phone number is too long.",
        "Check for two numbers in one field. Operators accept 15 digits or fewer.",
    ),
    PhoneFault.NOT_VALID: (
        "The phone number is not in use in its country.",
        "Check the country and the number.",
    ),
    PhoneFault.UNKNOWN_COUNTRY: (
        "The phone number has no country code, and its country is not known.",
        "Pass the two-letter code of the country, such as DE or GB.",
    ),
    PhoneFault.DECIMAL: (
        "The phone number was converted to a decimal, such as 4.93E+10 or 49301.0.",
        "Export the column again as text, because digits may be lost.",
    ),
}

# libphonenumber would read these as digits with separators, which is another person's
# number.
_DECIMAL: Final = re.compile(
    r"\s*[+-]?[0-9]+\.0+\s*|\s*[+-]?[0-9.,]+[eE][+-]?[0-9]+\s*"
)
_FORM: Final = re.compile(r"\+[0-9]{10,15}")
# The numbers in libphonenumber's output that operators accept.
_LEAST_CHARS: Final = len("+") + 10
_MOST_CHARS: Final = len("+") + 15


def to_e164(text: str, country: str | None = None) -> str | PhoneFault:
    """Convert a phone number to E.164, or return why that is not possible.

    Made for bulk jobs with millions of numbers: an invalid number does not raise. An
    extension (``ext. 5``) is dropped.

    Args:
        text: A number as people write it, such as ``030 123456`` or
            ``+49 (0)30 123456``.
        country: The two-letter ISO 3166 code of the country for numbers without a
            country code. Other numbers ignore it.

    Returns:
        ``+`` and 10 to 15 digits, or why there is no such form.

    Raises:
        InputError: If the extra ``phone`` is not installed.
    """
    lib = _library()
    if _DECIMAL.fullmatch(text):
        return PhoneFault.DECIMAL
    region = _region(country)
    try:
        number = lib.parse(text, region)
    except lib.NumberParseException as error:
        return _fault(lib, error.error_type, text, region)
    if not lib.is_valid_number(number):
        return _judge_length(lib, number)
    e164: str = lib.format_number(number, lib.PhoneNumberFormat.E164)
    if len(e164) < _LEAST_CHARS:
        return PhoneFault.TOO_SHORT
    return e164 if len(e164) <= _MOST_CHARS else PhoneFault.TOO_LONG


def to_sendable(text: str, country: str | None = None) -> str | PhoneFault:
    """Convert a phone number to the format that operators accept, like :func:`to_e164`.

    A number that is already in that format is returned unchanged even if it is not in
    use, because operators accept it and it may be newer than libphonenumber. A country
    therefore never invalidates a number that is valid without it.
    """
    found = to_e164(text, country)
    return text if isinstance(found, PhoneFault) and _FORM.fullmatch(text) else found


def check_country(country: str) -> None:
    """Raise if *country* is not known, before a job begins.

    Raises:
        InputError: If *country* is not a two-letter ISO 3166 code, or the extra
            ``phone`` is not installed.
    """
    _library()
    if _region(country) is None:
        raise InputError(
            "The country is unknown.", hint=PhoneFault.UNKNOWN_COUNTRY.hint
        )


def load_countries() -> None:
    """Load the data of all countries before a job begins. Takes 0.2 s once.

    Otherwise the first number of each country takes milliseconds.

    Raises:
        InputError: If the extra ``phone`` is not installed.
    """
    for region in _regions().values():
        to_e164("030 123456", region)


@cache
def _library() -> ModuleType:
    try:
        import phonenumbers  # noqa: PLC0415 - an extra, and few need it
    except ImportError:
        pass
    else:
        return phonenumbers
    raise InputError(
        "National phone numbers require phonenumbers.",
        hint="pip install 'uid2-async[phone]'",
    )


def _region(country: str | None) -> str | None:
    """Return libphonenumber's code for a country, or None if it does not know it."""
    return None if country is None else _regions().get(country.strip().upper())


@cache
def _regions() -> dict[str, str]:
    """Return the codes of all countries, including UK for the United Kingdom."""
    known = {region: region for region in _library().SUPPORTED_REGIONS}
    return {**known, "UK": "GB"}


def _fault(lib: ModuleType, kind: int, text: str, region: str | None) -> PhoneFault:
    """Convert an error of libphonenumber to a PhoneFault."""
    reasons = lib.NumberParseException
    if kind == reasons.INVALID_COUNTRY_CODE:
        foreign = region is not None or text.lstrip().startswith("+")
        return PhoneFault.NOT_VALID if foreign else PhoneFault.UNKNOWN_COUNTRY
    if kind == reasons.TOO_LONG:
        return PhoneFault.TOO_LONG
    if kind in {reasons.TOO_SHORT_NSN, reasons.TOO_SHORT_AFTER_IDD}:
        return PhoneFault.TOO_SHORT
    return PhoneFault.NOT_A_NUMBER


def _judge_length(lib: ModuleType, number: object) -> PhoneFault:
    """Return why a number that libphonenumber could parse is not valid."""
    reason = lib.is_possible_number_with_reason(number)
    possible = lib.ValidationResult
    if reason == possible.TOO_LONG:
        return PhoneFault.TOO_LONG
    if reason in {possible.TOO_SHORT, possible.IS_POSSIBLE_LOCAL_ONLY}:
        return PhoneFault.TOO_SHORT
    return PhoneFault.NOT_VALID


strip_tracebacks(globals())
