"""Instants as people read them."""

from __future__ import annotations

import pytest

from uid2_async.protocol.wire import iso


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
