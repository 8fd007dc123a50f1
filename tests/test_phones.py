"""National phone numbers become E.164, or a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from uid2_async import Phone
from uid2_async.errors import InputError
from uid2_async.phones import PhoneFault, check_country, to_e164, to_sendable

pytest.importorskip("phonenumbers")

WITHOUT = """
import sys
sys.modules["phonenumbers"] = None
from uid2_async import Phone, errors
try:
    Phone.parse("030 123456", country="DE")
except errors.InputError as error:
    print(error, error.hint, error.__context__)
"""


@pytest.mark.parametrize(
    ("text", "country", "e164"),
    [
        ("030 123456", "DE", "+4930123456"),
        ("030/12 34 56", " de ", "+4930123456"),
        ("0049 30 123456", "DE", "+4930123456"),
        ("+49 (0)30 123456", None, "+4930123456"),
        ("+4903012345678", None, "+493012345678"),
        ("+1 202 555 0123", "DE", "+12025550123"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("020 7946 0958", "UK", "+442079460958"),
        ("02 1234 5678", "IT", "+390212345678"),
        ("030 123456 ext. 5", "DE", "+4930123456"),
        ("+49 30\u00a0123456", None, "+4930123456"),
        ("٠٣٠١٢٣٤٥٦", "DE", "+4930123456"),
    ],
)
def test_numbers_as_people_write_them(
    text: str, country: str | None, e164: str
) -> None:
    """Spaces, signs, trunk zeros and country codes come out as one form."""
    assert to_e164(text, country) == e164
    assert Phone.parse(text, country=country) == Phone(e164)


@pytest.mark.parametrize(
    ("text", "country", "fault"),
    [
        ("", "DE", PhoneFault.NOT_A_NUMBER),
        ("call me", "DE", PhoneFault.NOT_A_NUMBER),
        ("+", "DE", PhoneFault.NOT_A_NUMBER),
        ("0049", "DE", PhoneFault.TOO_SHORT),
        ("030", "DE", PhoneFault.TOO_SHORT),
        ("555 0123", "US", PhoneFault.TOO_SHORT),
        ("+298 201234", None, PhoneFault.TOO_SHORT),
        ("0301234567890123456", "DE", PhoneFault.TOO_LONG),
        ("030 123456 or 040 22222", "DE", PhoneFault.TOO_LONG),
        ("0" * 300, "DE", PhoneFault.TOO_LONG),
        ("(202) 055-0123", "US", PhoneFault.NOT_VALID),
        ("+999 123456789", "DE", PhoneFault.NOT_VALID),
        ("+999 123456789", None, PhoneFault.NOT_VALID),
        ("030 123456", None, PhoneFault.UNKNOWN_COUNTRY),
        ("030 123456", "", PhoneFault.UNKNOWN_COUNTRY),
        ("030 123456", "Germany", PhoneFault.UNKNOWN_COUNTRY),
        ("491701234567.0", "DE", PhoneFault.DECIMAL),
        ("4.91701234567E+11", "DE", PhoneFault.DECIMAL),
        ("4,91701E+11", "DE", PhoneFault.DECIMAL),
    ],
)
def test_what_is_no_number_has_a_reason(
    text: str, country: str | None, fault: PhoneFault
) -> None:
    """Each cause has a name, and an error that does not show the number."""
    assert to_e164(text, country) is fault
    with pytest.raises(InputError) as caught:
        Phone.parse(text, country=country)

    assert (caught.value.message, caught.value.hint) == (fault.sentence, fault.hint)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("030 123456", "+4930123456"),
        ("+4903012345678", "+493012345678"),
        ("+12345678901", "+12345678901"),
        ("+999123456789", "+999123456789"),
        ("+999 123456789", PhoneFault.NOT_VALID),
        ("+999123456789.0", PhoneFault.DECIMAL),
        ("030", PhoneFault.TOO_SHORT),
    ],
)
def test_what_operators_take_stays(text: str, found: str | PhoneFault) -> None:
    """What is mapped without a country is mapped with one: mended, or as it is."""
    assert to_sendable(text, "DE") == found


def test_the_code_of_a_fault() -> None:
    """A file says it in one word that names phones."""
    codes = [fault.code for fault in PhoneFault]

    assert codes[:2] == ["PHONE_NOT_A_NUMBER", "PHONE_TOO_SHORT"]
    assert all(code.startswith("PHONE_") for code in codes)


def test_a_fault_never_passes_for_a_number() -> None:
    """A caller that forgets to check cannot send a reason in place of a phone."""
    assert not any(isinstance(fault, str) for fault in PhoneFault)
    with pytest.raises(InputError):
        Phone(PhoneFault.TOO_SHORT)  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize("country", ["DE", "gb", "UK", " us"])
def test_known_countries(country: str) -> None:
    """Two letters in either case are a country."""
    check_country(country)


@pytest.mark.parametrize("country", ["", "XX", "DEU", "Germany", "49"])
def test_unknown_countries(country: str) -> None:
    """Anything else is refused before a job begins."""
    with pytest.raises(InputError, match="country is unknown"):
        check_country(country)


def test_the_extra_is_named_where_it_is_missing() -> None:
    """Without phonenumbers the error says what to install, and the rest works."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", "-c", WITHOUT],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "pip install 'uid2-async[phone]'" in done.stdout
    assert done.stdout.endswith("None\n")


def test_nobody_pays_for_numbers_that_are_not_national() -> None:
    """Neither models nor phones import phonenumbers by themselves."""
    code = (
        "import sys, uid2_async.models, uid2_async.phones\n"
        "uid2_async.models.Phone('+12345678901')\n"
        "print('phonenumbers' in sys.modules)"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
