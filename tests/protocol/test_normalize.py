"""Normalization and hashing, case by case as the operator does it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import sampled_from, text

from uid2_async import Email, EmailHash, Phone, PhoneHash
from uid2_async.protocol.normalize import (
    KINDS,
    decode_hash,
    identity_bytes,
    identity_hash,
    normalize_email,
    normalize_phone,
)


def test_every_vector_normalizes_as_the_operator_does(vectors: dict[str, Any]) -> None:
    """All 121 cases give the operator's value and identity bytes."""
    kinds = {"email": "email", "phone": "phone", "hash": "email_hash"}
    assert len(vectors["normalization"]) == 121
    for case in vectors["normalization"]:
        kind = kinds.get(case["kind"], case["kind"])
        expected = b64decode(case["identity_b64"]) if case["valid"] else None
        assert identity_bytes(kind, case["input"]) == expected, case
        normal = case.get("normalized")
        if kind == "email":
            assert normalize_email(case["input"]) == normal, case
        elif kind == "phone":
            assert (normalize_phone(case["input"]) is not None) is case["valid"], case


@pytest.mark.parametrize("cls", [EmailHash, PhoneHash])
def test_hashes_are_sent_in_one_spelling(cls: type) -> None:
    """Hex, either case, and base64 of one hash become the same text."""
    data = bytes(range(200, 232))
    spellings = [data.hex(), data.hex().upper(), b64encode(data).decode()]

    assert {identity_hash(cls(one)) for one in spellings} == {spellings[2]}


def test_an_odd_hash_keeps_its_length() -> None:
    """44 base64 characters may hold 31 or 33 bytes, and the operator takes them."""
    for length in (31, 33):
        data = bytes(length)
        assert decode_hash(b64encode(data).decode()) == data


def test_invalid_identities_have_no_hash() -> None:
    """What the operator would refuse is never hashed."""
    assert identity_hash(Email("nobody")) is None
    assert identity_hash(Phone("0123")) is None


@given(sampled_from(KINDS), text())
def test_no_text_breaks_normalization(kind: str, value: str) -> None:
    """Any text at all is either identity bytes or None."""
    data = identity_bytes(kind, value)

    assert data is None or len(data) in {31, 32, 33}


@given(text(alphabet="aA.+@ gmailco\u00dc\u212a"))
def test_normalizing_twice_changes_nothing(value: str) -> None:
    """A normalized e-mail address is its own normal form."""
    once = normalize_email(value)

    assert once is None or normalize_email(once) == once
