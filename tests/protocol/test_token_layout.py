"""The values that a token is opened into."""

from __future__ import annotations

import pickle

import pytest

from uid2_async.protocol.token_codec import AdvertisingToken
from uid2_async.veiled import Veiled

VALUES = [
    AdvertisingToken(
        version=4,
        master_key_id=1,
        site_key_id=2,
        expires_ms=3,
        site_id=4,
        established_ms=5,
        raw_uid="veiled",
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_raw_uid_is_shown(value: Veiled) -> None:
    """Neither repr nor rich shows it; the harmless fields are there."""
    assert "veiled" not in repr(value)
    assert "veiled" not in str(value.__rich_repr__())
    assert repr(value).startswith(f"{type(value).__name__}(")
    assert "version=4" in repr(value) or "site_id=4" in repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value: Veiled) -> None:
    """They compare, hash, pickle and do not change."""
    again = pickle.loads(pickle.dumps(value))  # noqa: S301 - made one line above
    assert again == value
    assert hash(again) == hash(value)
    with pytest.raises(AttributeError, match="immutable"):
        value.version = 5  # type: ignore[attr-defined] # that it fails is the point
