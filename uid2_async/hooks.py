"""What a client tells its observers: frozen events with an allow-list of attributes.

No event carries DII, a token, a UID, a key, a body or a header.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias

import msgspec

from uid2_async._log import logger
from uid2_async._traceback import strip_tracebacks

__all__ = [
    "AttemptFailed",
    "AttemptStarted",
    "CallFinished",
    "CallStarted",
    "Event",
    "Hook",
    "IdentitiesAnswered",
    "LimitChanged",
    "ReplyMismatch",
    "RetryScheduled",
    "Throttled",
    "emit",
]


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call begins.

    Attributes:
        endpoint: Its path, such as ``/v2/token/generate``.
    """

    endpoint: str


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call begins; it ends with AttemptFailed or CallFinished.

    All events of a call come from the task that makes it, in the same context.

    Attributes:
        endpoint: The call's path.
        attempt: Which attempt, from 1.
        trace_id: The ``UID-Trace-Id`` that it carries.
    """

    endpoint: str
    attempt: int
    trace_id: str


class AttemptFailed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call failed; another may follow.

    Attributes:
        endpoint: The call's path.
        attempt: Which attempt, from 1.
        trace_id: The ``UID-Trace-Id`` that it carried.
        error_type: The name of the error's class.
        status: The HTTP status, or None where there was no answer.
        elapsed: How long the attempt took, in seconds.
        region: The base URL that was asked; None where the transport does not tell.
    """

    endpoint: str
    attempt: int
    trace_id: str
    error_type: str
    status: int | None
    elapsed: float
    region: str | None = None


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


class ReplyMismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A reply whose nonce or timestamp does not match its request.

    An intermediary mixed up replies, or someone replays them. The call fails without a
    retry, unless the connection had been used before.

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
        region: The base URL that the last attempt asked; None where that is not known.
        skew: By how many seconds the times of requests are corrected, because the
            operator's clock is that much ahead; 0 where it does not matter.
    """

    endpoint: str
    attempts: int
    trace_id: str | None
    elapsed: float
    error_type: str | None
    region: str | None = None
    skew: float = 0.0


class IdentitiesAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of people that a call asked about; told once for each result.

    Attributes:
        endpoint: The call's path.
        kind: ``email`` or ``phone``, hashed or not; ``token`` in a refresh.
        result: ``mapped``, ``token``, ``optout``, ``no_consent``, ``invalid``, or
            ``error`` where the call failed.
        count: How many. In bulk work each is counted once, however many rows name it.
    """

    endpoint: str
    kind: str
    result: str
    count: int


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk job starts no batch for a time, since the operator is asked too much.

    Attributes:
        delay: For how many seconds; beyond what was told before, where that lasts.
    """

    delay: float


class LimitChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk job changed how many batches it sends at once.

    Attributes:
        limit: How many from now on.
    """

    limit: int


Event: TypeAlias = (
    CallStarted
    | AttemptStarted
    | AttemptFailed
    | RetryScheduled
    | ReplyMismatch
    | CallFinished
    | IdentitiesAnswered
    | Throttled
    | LimitChanged
)


class Hook(Protocol):
    """Something to be called with each event, in the event loop: it must be quick."""

    def __call__(self, event: Event, /) -> None:
        """Take notice of *event*; what it raises is logged and goes no further."""
        ...


def emit(hooks: Iterable[Hook], event: Event) -> None:
    """Hand *event* to every hook; one that fails cannot fail what is observed."""
    for hook in hooks:
        try:
            hook(event)
        except Exception as error:  # noqa: BLE001 - whatever a foreign hook raises
            logger.warning("A hook failed with %s", type(error).__name__)


strip_tracebacks(globals())
