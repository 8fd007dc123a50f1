"""Counting different identities without keeping them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from uid2_async.bulk.estimate import UniqueCount


def count(numbers: range, *, times: int = 2) -> UniqueCount:
    """Count the hashes of *numbers*, each of them several times."""
    counted = UniqueCount()
    for _ in range(times):
        counted.add(sha256(b"%d" % number).digest() for number in numbers)
    return counted


@pytest.mark.parametrize("size", [0, 1, 1_000, 65_535])
def test_small_counts_are_exact(size: int) -> None:
    """Repetitions do not count."""
    counted = count(range(size))

    assert counted.is_exact
    assert int(counted) == size


def test_large_counts_are_close() -> None:
    """Within one per cent, in bounded memory."""
    counted = count(range(300_000))

    assert not counted.is_exact
    assert int(counted) == pytest.approx(300_000, rel=0.01)
