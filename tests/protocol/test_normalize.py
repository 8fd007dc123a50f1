"""Normalizing and hashing, one by one and many at once (docs/protocol.md 3)."""

from __future__ import annotations

import base64
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st
from hypothesis.strategies import sampled_from, text

from uid2_async.errors import InputError
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash
from uid2_async.protocol import mapping
from uid2_async.protocol.normalize import (
    KINDS,
    decode_hash,
    identity_bytes,
    identity_hash,
    many_identity_bytes,
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
    """A normalized email address is its own normal form."""
    once = normalize_email(value)

    assert once is None or normalize_email(once) == once


PIECES = ["a", "Ü", "K", "\u212a", ".", "+", " ", "@", "\n", "\r", "\ud800", "\0"]
LOCALS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)

ODD = st.builds(
    "{}{}{}".format,
    LOCALS,
    st.sampled_from(["@gmail.com", "@GMAIL.com ", "@a.gmail.com", "@", "@x@y", ""]),
    st.sampled_from(["", " ", "\n", ".x"]),
)

USUAL = st.builds(
    "{}@{}".format,
    st.text("abcXYZ.+-_0189", min_size=1, max_size=8),
    st.sampled_from(["example.com", "gmail.com", "GMail.com", "Example.ORG"]),
)

EMAILS = st.one_of(USUAL, ODD, st.text(max_size=20))

HASHES = st.one_of(
    st.binary(min_size=31, max_size=33).map(base64.b64encode),
    st.binary(min_size=32, max_size=32).map(lambda data: data.hex().encode()),
    st.binary(max_size=48),
).map(lambda data: data.decode("latin-1"))

PHONES = st.one_of(
    st.text("+0123456789", max_size=17),
    st.integers(10**9, 10**15).map("+{}".format),
)

VALUES = {"email": EMAILS, "phone": PHONES, "email_hash": HASHES, "phone_hash": HASHES}
TYPES = {"email": Email, "phone": Phone, "email_hash": EmailHash}
TYPES["phone_hash"] = PhoneHash


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_many_are_read_like_one(kind: str, data: st.DataObject) -> None:
    """Identity bytes do not depend on neighboring values."""
    values = data.draw(st.lists(VALUES[kind], max_size=12))

    expected = [identity_bytes(kind, value) for value in values]
    assert many_identity_bytes(kind, values) == expected


def test_an_odd_address_far_into_a_list_changes_no_other() -> None:
    """Addresses are taken some at a time; the seams do not show."""
    values = [f"Customer.{number}@gmail.com" for number in range(1_001)]
    values[250] = "nobody"
    values[999] = "line\nend@example.com"

    expected = [identity_bytes("email", value) for value in values]
    assert many_identity_bytes("email", values) == expected
    assert expected[250] is None


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), send_raw=st.booleans())
def test_a_query_of_one_kind_is_the_plain_one(
    kind: str, data: st.DataObject, send_raw: bool
) -> None:
    """Order and values are those of going through the identities one by one."""
    values = data.draw(st.lists(VALUES[kind], max_size=8))
    identities = [TYPES[kind](value) for value in values]

    assert_plain(identities, send_raw=send_raw)


@given(texts=st.lists(st.one_of(EMAILS, PHONES), max_size=8))
def test_a_query_of_strings_is_the_plain_one(texts: list[str]) -> None:
    """A leading + means a phone, wherever it stands."""
    assert_plain(texts, send_raw=False)


def assert_plain(identities: Sequence[Identity | str], *, send_raw: bool) -> None:
    """Compare the query of *identities* with the plain one."""
    query = mapping.prepare_map(identities, send_raw=send_raw)
    plain = mapping._prepare_each(identities, send_raw=send_raw)

    assert (query.order, query.values) == (plain.order, plain.values)
    assert query.identities is identities


@pytest.mark.parametrize("stranger", [None, 7, b"user@example.com"])
def test_a_stranger_is_named_by_its_place(stranger: object) -> None:
    """An invalid identity is rejected, alone or among others."""
    with pytest.raises(InputError, match="Item 0"):
        mapping.prepare_map([stranger])  # type: ignore[list-item] # that is the test
    with pytest.raises(InputError, match="Item 1"):
        mapping.prepare_map(["user@example.com", stranger])  # type: ignore[list-item] # as above
