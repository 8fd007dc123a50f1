"""JSON on the wire, and instants as text."""

from __future__ import annotations

from enum import Enum

import msgspec
import pytest

from uid2_async.errors import ProtocolError
from uid2_async.protocol import wire
from uid2_async.protocol.wire import iso


class Kind(Enum):
    """An enum, whose wrong values msgspec would print."""

    ONE = "one"


class Shape(msgspec.Struct):
    """A reply with the ways to be wrong."""

    rows: list[int]
    kind: Kind = Kind.ONE
    at: wire.EpochMs = 0


def test_a_value_is_written_compactly() -> None:
    """JSON goes out without spaces and as UTF-8."""
    assert wire.encode({"a": ["ü", 1]}) == '{"a":["ü",1]}'.encode()


def test_unknown_keys_are_ignored() -> None:
    """A newer operator may say more."""
    assert wire.decode(b'{"rows":[1],"new":{}}', Shape) == Shape([1])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'{"rows":[1,"canary"]}', "rows[1]"),
        (b'{"rows":[],"kind":"canary"}', "kind"),
        (b'{"rows":[],"at":-1}', "at"),
        (b'{"rows":[],"at":253402300800000}', "at"),
        (b'{"canary":1}', ""),
        (b"[]", ""),
    ],
)
def test_a_wrong_field_is_named_by_path_alone(text: bytes, path: str) -> None:
    """The place is shown, the value is not, and nothing foreign stays attached."""
    with pytest.raises(ProtocolError) as caught:
        wire.decode(text, Shape)

    assert caught.value.path == path
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"canary", b'{"rows":', b"\xff\xfe", b'{"rows":[]}x', b"[" * 100_000),
        b'{"rows":[NaN]}',
        '{"rows":[],"kind":"\ud800"}'.encode(errors="surrogatepass"),
    ],
)
def test_what_is_no_json_is_one_error(text: bytes) -> None:
    """Broken, cut, deep and badly encoded JSON end alike."""
    with pytest.raises(ProtocolError) as caught:
        wire.decode(text, Shape)

    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (2**62, "4611686018427387904 ms"),
    ],
)
def test_iso(ms: int, text: str) -> None:
    """UTC, with ms only where there are some; what has no date stays a number."""
    assert iso(ms) == text
