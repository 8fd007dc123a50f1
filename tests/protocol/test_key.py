"""One key: when it holds, what it seals and opens."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists

from uid2_async.protocol.keyring import Key, active_key, by_activation

SECRET = bytes(range(32))
KEY = Key(id=7, secret=SECRET, created=0, activates=100, expires=200)
OTHER = attrs.evolve(KEY, id=8, secret=SECRET[::-1])

gcm_ivs, cbc_ivs = binary(min_size=12, max_size=12), binary(min_size=16, max_size=16)


def make_key(number: int, activates: int, expires: int) -> Key:
    """Make a key with an id and a time."""
    return attrs.evolve(KEY, id=number, activates=activates, expires=expires)


def test_repr_hides_the_secret() -> None:
    """Everything is shown but the secret."""
    KEY.seal_gcm(bytes(12), b"")  # so that the cipher has been made
    assert repr(KEY) == (
        "Key(id=7, created=0, activates=100, expires=200, keyset_id=None, site_id=None)"
    )


@pytest.mark.parametrize(
    ("now_ms", "active"),
    [(99_999, False), (100_000, True), (199_999, True), (200_000, False)],
)
def test_a_key_is_active_from_activates_up_to_expires(
    now_ms: int, *, active: bool
) -> None:
    """The first instant counts and the last does not (6.4)."""
    assert KEY.is_active(now_ms) is active


@given(gcm_ivs, binary(max_size=200), binary(max_size=20))
def test_gcm_round_trip(iv: bytes, data: bytes, before: bytes) -> None:
    """A GCM blob is IV, ciphertext and tag, and opens from any place on."""
    blob = KEY.seal_gcm(iv, data)
    assert blob[:12] == iv
    assert len(blob) == 12 + len(data) + 16
    assert KEY.open_gcm(before + blob, len(before)) == data
    assert OTHER.open_gcm(blob) is None


@given(cbc_ivs, binary(max_size=200), binary(max_size=20))
def test_cbc_round_trip(iv: bytes, data: bytes, before: bytes) -> None:
    """A CBC blob is IV and padded ciphertext, and opens from any place on."""
    blob = KEY.seal_cbc(iv, data)
    assert blob[:16] == iv
    assert len(blob) == 16 + len(data) // 16 * 16 + 16
    assert KEY.open_cbc(before + blob, len(before)) == data


@given(binary(max_size=100))
def test_foreign_bytes_do_not_open(data: bytes) -> None:
    """Opening answers None and never raises; CBC may find a padding by chance."""
    assert KEY.open_gcm(data) is None
    found = KEY.open_cbc(data)
    assert found is None or len(found) < len(data)


def test_cbc_verifies_the_padding() -> None:
    """Another key does not open it: this one's padding comes out wrong."""
    assert OTHER.open_cbc(KEY.seal_cbc(bytes(16), b"data")) is None


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_gcm_iv_has_12_bytes(size: int) -> None:
    """Another IV is refused: its blob could not be opened."""
    with pytest.raises(ValueError, match="12 bytes"):
        KEY.seal_gcm(bytes(size), b"data")


@pytest.mark.parametrize("size", [0, 12, 17])
def test_a_cbc_iv_has_16_bytes(size: int) -> None:
    """Another IV is refused."""
    with pytest.raises(ValueError, match="IV"):
        KEY.seal_cbc(bytes(size), b"data")


def test_the_active_key_is_the_latest_activated() -> None:
    """Future keys do not count, expired ones are stepped over (6.4)."""
    keys = by_activation(
        [
            make_key(4, 400, 900),  # not yet
            make_key(1, 100, 900),
            make_key(3, 300, 310),  # expired
            make_key(2, 200, 900),
        ]
    )
    assert [key.id for key in keys] == [1, 2, 3, 4]
    found = {now: active_key(keys, now * 1000) for now in (99, 150, 305, 310, 450, 900)}
    assert {now: key and key.id for now, key in found.items()} == {
        99: None,
        150: 1,
        305: 3,
        310: 2,
        450: 4,
        900: None,
    }


def test_of_keys_that_activate_together_the_last_counts() -> None:
    """The order in which they came decides."""
    keys = by_activation([make_key(5, 100, 900), make_key(3, 100, 900)])
    assert active_key(keys, 500_000) is keys[1]
    assert keys[1].id == 3


def test_no_keys_have_no_active_key() -> None:
    """An empty keyset answers None."""
    assert active_key((), 0) is None


@given(
    lists(integers(0, 50), min_size=1, max_size=12, unique=True).flatmap(
        lambda starts: lists(
            integers(1, 50), min_size=len(starts), max_size=len(starts)
        ).map(lambda spans: list(zip(starts, spans, strict=True)))
    ),
    integers(0, 110_000),
)
def test_the_active_key_is_the_newest_of_those_that_hold(
    spans: list[tuple[int, int]], now_ms: int
) -> None:
    """Whatever the order, it is the one of the largest activation among the active."""
    keys = [make_key(n, start, start + long) for n, (start, long) in enumerate(spans)]
    active = [key for key in keys if key.is_active(now_ms)]
    expected = max(active, key=lambda key: key.activates, default=None)
    assert active_key(by_activation(keys), now_ms) == expected
