"""The last calls as they went over the wire, for as long as they are worth a look."""

from __future__ import annotations

from collections import deque
from enum import Enum
from threading import Lock
from typing import Final

import attrs

from uid2_async.operator.data import Client
from uid2_async.operator.http_messages import Reply
from uid2_async.operator.indexes import ApiKeys
from uid2_async.operator.state import Call

__all__ = ["CALLS_KEPT", "Caller", "Exchange", "Exchanges", "KeyCheck", "identify"]

CALLS_KEPT: Final = 500
_BYTES_KEPT: Final = 32 * 1024 * 1024


class KeyCheck(Enum):
    """What was in the ``Authorization`` header."""

    MISSING = "no API key"
    MALFORMED = "not of the form 'Bearer KEY'"
    UNKNOWN = "an API key that this operator does not know"
    KNOWN = "a known API key"


@attrs.frozen
class Caller:
    """Who called, by the API key; the key itself is not kept.

    Attributes:
        check: What was in the header.
        client: Whose key it is, even if it is disabled or lacks the role.
    """

    check: KeyCheck
    client: Client | None = None


def identify(api_keys: ApiKeys, authorization: str | None) -> Caller:
    """Tell who called by the ``Authorization`` header."""
    client = api_keys.find(authorization)
    if client is not None:
        return Caller(KeyCheck.KNOWN, client)
    header = (authorization or "").strip()
    if not header:
        return Caller(KeyCheck.MISSING)
    bearer = header.lower().startswith("bearer ")
    return Caller(KeyCheck.UNKNOWN if bearer else KeyCheck.MALFORMED)


@attrs.frozen(kw_only=True)
class Exchange:
    """A request and its answer, as they went over the wire.

    Attributes:
        number: Counts the exchanges of an operator, from 1.
        at_ms: The operator's clock, as the call saw it.
        took_ms: How long the answer took.
        call: What the log of calls keeps; its headers are without the API key.
        caller: Who called.
        body: The request's body.
        reply: The answer before a fault cut or dropped it.
    """

    number: int = 0
    at_ms: int
    took_ms: float
    call: Call
    caller: Caller
    body: bytes = attrs.field(repr=False)
    reply: Reply = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """How many bytes the bodies have."""
        return len(self.body) + len(self.reply.body)


class Exchanges:
    """The last exchanges; the oldest go when they are too many or too large."""

    def __init__(
        self, *, calls_kept: int = CALLS_KEPT, bytes_kept: int = _BYTES_KEPT
    ) -> None:
        """Keep at most so many calls, and bodies of so many bytes in all."""
        self._lock = Lock()
        self._kept: deque[Exchange] = deque()
        self._calls_kept = calls_kept
        self._bytes_kept = bytes_kept
        self._bytes = 0
        self._last = 0

    def add(self, exchange: Exchange) -> None:
        """Give *exchange* its number and keep it."""
        with self._lock:
            self._last += 1
            self._kept.append(attrs.evolve(exchange, number=self._last))
            self._bytes += exchange.size
            while len(self._kept) > self._calls_kept or (
                self._bytes > self._bytes_kept and len(self._kept) > 1
            ):
                self._bytes -= self._kept.popleft().size

    def after(self, number: int) -> list[Exchange]:
        """List what came after *number*, oldest first."""
        with self._lock:
            return [one for one in self._kept if one.number > number]

    @property
    def first(self) -> int:
        """The number of the oldest that is kept, or of the next one to come."""
        with self._lock:
            return self._kept[0].number if self._kept else self._last + 1

    def find(self, number: int) -> Exchange | None:
        """Find an exchange, or None where it is gone."""
        with self._lock:
            return next((one for one in self._kept if one.number == number), None)

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0
