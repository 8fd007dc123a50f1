"""A cache that is bounded in size and whose entries expire."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from uid2_async.clock import Monotonic

__all__ = ["TTLCache"]

T = TypeVar("T")


class TTLCache(Generic[T]):
    """Values by key, which expire. The least recently used value is evicted."""

    def __init__(self, size: int, monotonic: Monotonic) -> None:
        """Create a cache of at most *size* values, which *monotonic* expires."""
        self._size = size
        self._now = monotonic
        self._entries: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries, including expired ones not read since."""
        return len(self._entries)

    def set(self, key: str, value: T, *, seconds: float) -> None:
        """Store *value* for *seconds*."""
        self._entries[key] = (value, self._now() + seconds)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def get(self, key: str) -> T | None:
        """Return the value of *key*, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if self._now() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value
