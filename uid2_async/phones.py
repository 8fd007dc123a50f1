"""National phone numbers into E.164, the one form that operators take.

Operators rewrite no phone number (docs/protocol.md 3.2). What a country's numbers look
like is known to Google's libphonenumber, which the extra ``phone`` brings.
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
    """Why a text is not a phone number. Not a str, so that it never passes for one.

    The value is a name to store, :attr:`sentence` is for people to read.
    """

    NOT_A_NUMBER = "not_a_number"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NOT_VALID = "not_valid"
    UNKNOWN_COUNTRY = "unknown_country"
    DECIMAL = "decimal"

    @property
    def code(self) -> str:
        """The fault in a word, for the column ERROR of a file."""
        return f"PHONE_{self.name}"

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return _SENTENCES[self][0]

    @property
    def hint(self) -> str:
        """What to do about it."""
        return _SENTENCES[self][1]


_SENTENCES: Final = {
    PhoneFault.NOT_A_NUMBER: (
        "The text is not a phone number.",
        "Pass one number, with or without its country code.",
    ),
    PhoneFault.TOO_SHORT: (
        "The phone number is too short.",
        "Check whether the area code is missing. Operators accept 10 digits or more.",
    ),
    PhoneFault.TOO_LONG: (
        "The phone number is too long.",
        "Check for two numbers in one field. Operators accept up to 15 digits.",
    ),
    PhoneFault.NOT_VALID: (
        "No such phone number is in use in its country.",
        "Check the country and the number.",
    ),
    PhoneFault.UNKNOWN_COUNTRY: (
        "The phone number is in national format, and its country is unknown.",
        "Pass the country as two letters, such as DE or GB.",
    ),
    PhoneFault.DECIMAL: (
        "The phone number was converted to a decimal number, such as 4.93E+10.",
        "Export the column again as text, because digits may be lost.",
    ),
}

# To libphonenumber these are digits with signs between them: other people's numbers.
_DECIMAL: Final = re.compile(
    r"\s*[+-]?[0-9]+\.0+\s*|\s*[+-]?[0-9.,]+[eE][+-]?[0-9]+\s*"
)
_FORM: Final = re.compile(r"\+[0-9]{10,15}")
# What an operator takes, from what libphonenumber writes.
_LEAST_CHARS: Final = len("+") + 10
_MOST_CHARS: Final = len("+") + 15


def to_e164(text: str, country: str | None = None) -> str | PhoneFault:
    """Bring a phone number into E.164 form, or say why it has none.

    Made to be called for each of the millions of a bulk job: nothing is raised for a
    bad number. An extension (``ext. 5``) is left out.

    Args:
        text: A number as people write it, such as ``030 123456`` or
            ``+49 (0)30 123456``.
        country: The two letters of ISO 3166 for the country whose numbers are written
            without country code; it does not matter for the others.

    Returns:
        ``+`` and 10 to 15 digits, or the reason why not.

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
    """Bring a phone number into the form that operators take, as :func:`to_e164` does.

    What has that form and is in use nowhere stays as it is: operators take it, and
    libphonenumber may be older than the number. So a country never takes away what
    would be mapped without it.
    """
    found = to_e164(text, country)
    return text if isinstance(found, PhoneFault) and _FORM.fullmatch(text) else found


def check_country(country: str) -> None:
    """Refuse a *country* whose numbers are not known, before a job begins.

    Raises:
        InputError: If it is not one of ISO 3166's two letters, or the extra ``phone``
            is not installed.
    """
    _library()
    if _region(country) is None:
        raise InputError(
            "The country is unknown.", hint=PhoneFault.UNKNOWN_COUNTRY.hint
        )


def load_countries() -> None:
    """Load what is known of all countries, before a job begins; 0.2 s, once.

    Else the first number of each country takes milliseconds.

    Raises:
        InputError: If the extra ``phone`` is not installed.
    """
    for region in _regions().values():
        to_e164("030 123456", region)


@cache
def _library() -> ModuleType:
    """Import libphonenumber's port."""
    try:
        import phonenumbers  # noqa: PLC0415 - an extra, and few need it
    except ImportError:
        pass
    else:
        return phonenumbers
    raise InputError(
        "National phone numbers need phonenumbers.",
        hint="pip install 'uid2-async[phone]'",
    )


def _region(country: str | None) -> str | None:
    """Name a country as libphonenumber does, None for one that it does not know."""
    return None if country is None else _regions().get(country.strip().upper())


@cache
def _regions() -> dict[str, str]:
    """Return all countries, and the United Kingdom by its usual name."""
    known = {region: region for region in _library().SUPPORTED_REGIONS}
    return {**known, "UK": "GB"}


def _fault(lib: ModuleType, kind: int, text: str, region: str | None) -> PhoneFault:
    """Turn a reason of libphonenumber's into ours."""
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
    """Return why a number that was parsed is not valid."""
    reason = lib.is_possible_number_with_reason(number)
    possible = lib.ValidationResult
    if reason == possible.TOO_LONG:
        return PhoneFault.TOO_LONG
    if reason in {possible.TOO_SHORT, possible.IS_POSSIBLE_LOCAL_ONLY}:
        return PhoneFault.TOO_SHORT
    return PhoneFault.NOT_VALID


strip_tracebacks(globals())
