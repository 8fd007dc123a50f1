"""Events for observers of a client: frozen classes with an allow-list of attributes.

No event contains DII, a token, a UID, a key, a body or a header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from uid2_async._private import logger
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    IdentityMap,
    InsufficientConsent,
    MapRow,
    OptedOut,
    UnmappedReason,
)
from uid2_async.protocol.normalize import KINDS

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

T = TypeVar("T")

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_RESULTS: Final[dict[type, str]] = {
    IdentityTokens: "token",
    OptedOut: "optout",
    InsufficientConsent: "no_consent",
}


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call begins.

    Attributes:
        endpoint: The path of the call, such as ``/v2/token/generate``.
    """

    endpoint: str


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call begins. It ends with AttemptFailed or CallFinished.

    All events of a call are emitted by the task that makes the call, in the same
    context.

    Attributes:
        endpoint: The call's path.
        attempt: The number of the attempt, starting at 1.
        trace_id: The ``UID-Trace-Id`` of the attempt.
    """

    endpoint: str
    attempt: int
    trace_id: str


class AttemptFailed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call failed. Another attempt may follow.

    Attributes:
        endpoint: The call's path.
        attempt: The number of the attempt, starting at 1.
        trace_id: The ``UID-Trace-Id`` of the attempt.
        error_type: The name of the error's class.
        status: The HTTP status, or None if there was no reply.
        elapsed: The duration of the attempt in seconds.
        region: The base URL of the attempt, or None if the transport does not report
            it.
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
        attempt: The number of the next attempt, starting at 2.
        delay: The delay before the attempt, in seconds.
    """

    endpoint: str
    attempt: int
    delay: float


class ReplyMismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A reply whose nonce or timestamp does not match its request.

    A proxy mixed up replies, or someone replays them. The call fails without a retry,
    unless the connection had been used before.

    Attributes:
        endpoint: The call's path.
        trace_id: The ``UID-Trace-Id`` of the attempt.
    """

    endpoint: str
    trace_id: str


class CallFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A call ends with a return value, an error or a cancellation.

    Attributes:
        endpoint: The call's path.
        attempts: The number of attempts.
        trace_id: The ``UID-Trace-Id`` of the last attempt, or None if there was none.
        elapsed: The duration of the call in seconds.
        error_type: The name of the error's class, or None if the call succeeded.
        region: The base URL of the last attempt, or None if it is not known.
        skew: The seconds that are added to the times of requests, because the
            operator's clock is ahead by so much. 0 if the difference does not matter.
    """

    endpoint: str
    attempts: int
    trace_id: str | None
    elapsed: float
    error_type: str | None
    region: str | None = None
    skew: float = 0.0


class IdentitiesAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """The results for the people in a call. Emitted once for each result.

    Attributes:
        endpoint: The call's path.
        kind: ``email`` or ``phone``, hashed or not. ``token`` for a refresh.
        result: ``mapped``, ``token``, ``optout``, ``no_consent`` or ``invalid``, or
            ``error`` if the call failed.
        count: The number of people. In a bulk job, each counts only once, even if
            several rows contain the same identity.
    """

    endpoint: str
    kind: str
    result: str
    count: int


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk job pauses before its next batch, because the operator throttles it.

    Attributes:
        delay: The length of the pause in seconds. If a pause is in progress, the time
            by which it is extended.
    """

    delay: float


class LimitChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk job has changed its number of concurrent batches.

    Attributes:
        limit: The new number of concurrent batches.
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
    """Called with each event, in the event loop. It must return quickly."""

    def __call__(self, event: Event, /) -> None:
        """Handle *event*. An error is logged and otherwise ignored."""
        ...


def emit(hooks: Iterable[Hook], event: Event) -> None:
    """Pass *event* to every hook. A hook that raises does not affect the call."""
    for hook in hooks:
        try:
            hook(event)
        except Exception as error:  # noqa: BLE001 - a hook may raise anything
            logger.warning("A hook failed with %s", type(error).__name__)


async def count_identities(
    work: Awaitable[T], *, hooks: Sequence[Hook], endpoint: str, kinds: Iterable[str]
) -> T:
    """Await the results for identities of *kinds*, and emit them to *hooks*.

    A call for several people returns an IdentityMap. Any other result is that of one.
    """
    kinds = list(kinds)
    try:
        found = await work
    except UID2Error:
        emit_failed_counts(hooks, endpoint, Counter(kinds))
        raise
    rows = found if isinstance(found, IdentityMap) else [found]
    _emit_counts(hooks, endpoint, Counter(zip(kinds, map(_result, rows), strict=True)))
    return found


def emit_identity_counts(
    hooks: Sequence[Hook], endpoint: str, rows: Mapping[str, Sequence[MapRow]]
) -> None:
    """Emit the results of a reply's rows. Their key is the kind that was sent."""
    if hooks:
        counts = {
            (kind, result): count
            for kind, found in rows.items()
            for result, count in Counter(map(_result, found)).items()
        }
        _emit_counts(hooks, endpoint, counts)


def emit_failed_counts(
    hooks: Sequence[Hook], endpoint: str, counts: Mapping[str, int]
) -> None:
    """Emit the number of identities of each kind whose call failed."""
    _emit_counts(
        hooks, endpoint, {(kind, "error"): count for kind, count in counts.items()}
    )


def _result(row: Any) -> str:
    """Return the result of one identity: mapped, token, optout and so on."""
    result = _RESULTS.get(type(row))
    if result is not None:
        return result
    if row.raw_uid is not None and row.reason is None:
        return "mapped"
    return "optout" if row.reason == _OPTED_OUT else "invalid"


def _emit_counts(
    hooks: Iterable[Hook], endpoint: str, counts: Mapping[tuple[str, str], int]
) -> None:
    """Emit one event for each pair of kind (without ``_hash``) and result."""
    merged: Counter[tuple[str, str]] = Counter()
    for (kind, result), count in counts.items():
        # Raw UIDs, whose status can be requested, are not identities.
        if kind in KINDS or kind == "token":
            merged[kind.removesuffix("_hash"), result] += count
    for (kind, result), count in merged.items():
        event = IdentitiesAnswered(
            endpoint=endpoint, kind=kind, result=result, count=count
        )
        emit(hooks, event)


strip_tracebacks(globals())
