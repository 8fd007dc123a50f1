"""A memory that forgets: bounded in size, and each entry in time."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Generic, TypeVar

__all__ = ["Memory"]

T = TypeVar("T")


class Memory(Generic[T]):
    """Values by key, each until an instant; the least recently used goes first."""

    def __init__(self, size: int) -> None:
        """Keep at most *size* values."""
        self._size = size
        self._entries: OrderedDict[str, tuple[T, datetime]] = OrderedDict()

    def __len__(self) -> int:
        """Count what is kept, including what nobody has asked for since it ended."""
        return len(self._entries)

    def keep(self, key: str, value: T, *, until: datetime) -> None:
        """Keep *value* until the instant *until*."""
        self._entries[key] = (value, until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def recall(self, key: str, now: datetime) -> T | None:
        """Give the value of *key*, or None if there is none any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if now >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value
