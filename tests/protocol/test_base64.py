"""Strict base64, as Java decodes it."""

from __future__ import annotations

import base64 as stdlib

import pytest
from hypothesis import given
from hypothesis.strategies import binary

from uid2_async.protocol import base64


@given(binary())
def test_both_alphabets_round_trip(data: bytes) -> None:
    """What is encoded is decoded, with and without padding."""
    text = base64.encode_text(data)

    assert text.encode() == base64.encode(data) == stdlib.b64encode(data)
    assert base64.decode(text) == base64.decode(text.rstrip("=")) == data
    assert base64.decode_url(base64.encode_url_text(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        *("ab=", "abc==", "abcd=", "a", "====", "=", "ab==cd", "ab=d", "abc=abcd"),
        *("abcd====", "abcdabcd====", "ab======"),
        *("ab-d", "ab_d", "ab\u00dcd", "\uff41bcd"),
        *("ab==\n", " abcd", "ab cd", "abcd\n"),
    ],
)
def test_what_java_refuses_is_refused(text: str) -> None:
    """Foreign characters, white space and wrong padding are no base64."""
    assert base64.decode(text) is None
    assert base64.decode(text.encode()) is None


@pytest.mark.parametrize("text", ["abc\ud800", "\udfff", "ab\ud800"])
def test_half_a_character_is_none(text: str) -> None:
    """JSON can bring lone surrogates, which no encoder takes."""
    assert base64.decode(text) is None
    assert base64.decode_url(text) is None


def test_a_subclass_of_str_is_read_as_its_text() -> None:
    """Such as those that numpy and pandas hand out."""

    class Foreign(str):
        """A str of another library."""

        __slots__ = ()

    for text in ("abcd", "abc=", "abc", "ab-d"):
        assert base64.decode(Foreign(text)) == base64.decode(text)
        assert base64.decode_url(Foreign(text)) == base64.decode_url(text)


def test_bits_left_over_are_ignored() -> None:
    """The last character may carry bits that no byte holds."""
    assert base64.decode("abR=") == base64.decode("abQ=")


@pytest.mark.parametrize("text", ["ab+d", "ab/d", "abÜd", "ab-d=", "ab d"])
def test_the_url_alphabet_is_its_own(text: str) -> None:
    """The URL decoder takes no character of the standard alphabet alone."""
    assert base64.decode_url(text) is None
    assert base64.decode_url(text.encode()) is None
