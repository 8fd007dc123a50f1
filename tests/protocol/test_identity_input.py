"""One identity in a request, both halves."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from operator_answers import answer, sample_index
from uid2_async import Email, EmailHash, Phone, PhoneHash
from uid2_async.errors import InputError
from uid2_async.models import IdentityType
from uid2_async.operator.http_messages import RefusedError
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.tokens import (
    IdentityInput,
    generate,
    read_identity_input,
)
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import write_identity_input

DATA = sha256(b"user@example.com").digest()
HASH = base64.encode_text(DATA)
INDEX = sample_index()
WITHOUT_PHONES = sample_index(enable_phone_support=False)
PHONE_HASH = base64.encode_text(sha256(b"+12345678901").digest())
MISSING = RefusedError(400, "error", "missing")
INVALID = RefusedError(400, "error", "invalid")


def read(
    index: DataIndex, payload: dict[str, Any] | None
) -> IdentityInput | RefusedError:
    """Read the identity of a request, or return the error that it is refused with."""
    try:
        return read_identity_input(index, payload, missing=MISSING, invalid=INVALID)
    except RefusedError as refusal:
        return refusal


@pytest.mark.parametrize(
    ("identity", "hashed", "raw"),
    [
        (
            Email("User@example.com"),
            {"email_hash": HASH},
            {"email": "User@example.com"},
        ),
        (Phone("+12345678901"), {"phone_hash": PHONE_HASH}, {"phone": "+12345678901"}),
        (EmailHash(DATA.hex()), {"email_hash": HASH}, {"email_hash": HASH}),
        (PhoneHash(HASH), {"phone_hash": HASH}, {"phone_hash": HASH}),
    ],
)
def test_dii_is_hashed_unless_told_otherwise(
    identity: Email, hashed: dict, raw: dict
) -> None:
    """A hash is sent in its canonical spelling, DII as it is only on request."""
    assert write_identity_input(identity, send_raw=False) == hashed
    assert write_identity_input(identity, send_raw=True) == raw


def test_what_json_cannot_carry_is_hashed_in_any_case() -> None:
    """A lone surrogate is hashed as the operator would hash it."""
    sent = write_identity_input(Email("\ud83djane@example.com"), send_raw=True)

    assert sent == {"email_hash": "h9zh4xIuHRvbm3qMgtByFnuJ/qVhl5iRl5cEHSTLJjg="}


def test_an_invalid_identity_is_named_by_kind() -> None:
    """The caller's value is not repeated."""
    with pytest.raises(InputError, match="The email is not valid") as caught:
        write_identity_input(Email("canary"), send_raw=False)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (None, MISSING),
        ({}, MISSING),
        ({"email": None}, MISSING),
        ({"email": "a@b", "phone": ""}, MISSING),
        ({"email": ""}, INVALID),
        ({"email": ["user@example.com"]}, "[user@example.com]"),
        ({"email": "user@example.com", "phone": None}, "user@example.com"),
        ({"email_hash": DATA.hex().upper()}, "user@example.com"),
        ({"email_hash": 7}, INVALID),
    ],
)
def test_exactly_one_key_counts(
    payload: dict[str, Any] | None, expected: RefusedError | str
) -> None:
    """Null is absent, empty is present, and other types are judged as text."""
    found = read(INDEX, payload)

    if isinstance(expected, str):
        flh = INDEX.buckets.first_level_hash(sha256(expected.encode()).digest())
        expected = IdentityInput(identity_type=IdentityType.EMAIL, flh=flh)  # type: ignore[assignment] # one name for both outcomes
    assert found == expected


def test_without_phone_support_phones_are_absent() -> None:
    """An operator without phones sees none."""
    payload = {"email": "user@example.com", "phone": "+12345678901"}

    assert isinstance(read(WITHOUT_PHONES, payload), IdentityInput)
    assert read(INDEX, payload) is MISSING


def test_a_phone_is_read_as_phone() -> None:
    """Both phone keys stand for the same type."""
    one = read(INDEX, {"phone": "+12345678901"})
    other = read(INDEX, {"phone_hash": PHONE_HASH})

    assert one == other
    assert isinstance(one, IdentityInput)
    assert one.identity_type is IdentityType.PHONE


REQUIRED = "Required Parameter Missing: exactly one of {} must be specified"


@pytest.mark.parametrize(
    ("payload", "phones", "message"),
    [
        ({}, True, REQUIRED.format("[email, email_hash, phone, phone_hash]")),
        ({}, False, REQUIRED.format("email or email_hash")),
        ({"email": "ab"}, True, "Invalid Identifier"),
    ],
)
def test_the_refusal_is_the_operators(
    payload: dict[str, Any], phones: bool, message: str
) -> None:
    """Status, word and message are those of the reference."""
    with pytest.raises(RefusedError) as caught:
        answer(generate, payload, enable_phone_support=phones)

    refusal = caught.value
    assert (refusal.status, refusal.code) == (400, "client_error")
    assert refusal.message == message
