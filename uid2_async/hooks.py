"""What a client tells its observers: frozen events with an allow-list of attributes.

No event carries DII, a token, a UID, a key, a body or a header.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

__all__ = [
    "AttemptFailed",
    "CallFinished",
    "CallStarted",
    "Event",
    "ForgedReply",
    "Hook",
    "RetryScheduled",
]


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call begins.

    Attributes:
        endpoint: Its path, such as ``/v2/token/generate``.
    """

    endpoint: str


class AttemptFailed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call failed; another may follow.

    Attributes:
        endpoint: The call's path.
        attempt: Which attempt, from 1.
        trace_id: The ``UID-Trace-Id`` that it carried.
        error_type: The name of the error's class.
        status: The HTTP status, or None where there was no answer.
        elapsed: How long the attempt took, in seconds.
    """

    endpoint: str
    attempt: int
    trace_id: str
    error_type: str
    status: int | None
    elapsed: float


class RetryScheduled(msgspec.Struct, frozen=True, kw_only=True):
    """Another attempt will be made.

    Attributes:
        endpoint: The call's path.
        attempt: The attempt that is to come, from 2.
        delay: After how many seconds.
    """

    endpoint: str
    attempt: int
    delay: float


class ForgedReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply came that was sealed for another request, or long ago.

    An accident of an edge, or an attack: the call fails, and nothing is retried.

    Attributes:
        endpoint: The call's path.
        trace_id: The ``UID-Trace-Id`` of the attempt.
    """

    endpoint: str
    trace_id: str


class CallFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A call ends, by success, error or cancellation.

    Attributes:
        endpoint: The call's path.
        attempts: How many attempts were made.
        trace_id: The ``UID-Trace-Id`` of the last one, None where none was made.
        elapsed: How long the call took, in seconds.
        error_type: The name of the error's class; None for success.
        skew: By how many seconds the times of requests are corrected, because the
            operator's clock is that much ahead; 0 where it does not matter.
    """

    endpoint: str
    attempts: int
    trace_id: str | None
    elapsed: float
    error_type: str | None
    skew: float = 0.0


Event: TypeAlias = (
    CallStarted | AttemptFailed | RetryScheduled | ForgedReply | CallFinished
)


class Hook(Protocol):
    """Something to be called with each event, in the event loop: it must be quick."""

    def __call__(self, event: Event, /) -> None:
        """Take notice of *event*; what it raises is logged and goes no further."""
        ...
