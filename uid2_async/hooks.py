"""What a client tells its observers: frozen events with an allow-list of attributes.

No event carries DII, a token, a UID, a key, a body or a header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

from uid2_async._log import logger
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    IdentityMap,
    InsufficientConsent,
    MappedUID,
    MapRow,
    OptedOut,
    Unmapped,
    UnmappedReason,
    kind_and_value,
)
from uid2_async.protocol.mapping import MapQuery
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

T = TypeVar("T", bound=IdentityTokens | OptedOut | InsufficientConsent)

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_RESULTS: Final = {
    IdentityTokens: "token",
    OptedOut: "optout",
    InsufficientConsent: "no_consent",
}


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


async def count_identity(
    work: Awaitable[T], *, hooks: Sequence[Hook], endpoint: str, kind: str
) -> T:
    """Await the answer about one person, and emit its result to *hooks*."""
    try:
        found = await work
    except UID2Error:
        emit_failed_counts(hooks, endpoint, {kind: 1})
        raise
    _emit_counts(hooks, endpoint, {(kind, _RESULTS[type(found)]): 1})
    return found


async def count_identities(
    work: Awaitable[IdentityMap],
    *,
    hooks: Sequence[Hook],
    endpoint: str,
    query: MapQuery,
) -> IdentityMap:
    """Await the answer to *query*, and emit the results of its identities."""
    kinds = [
        key or kind_and_value(one)[0]
        for key, one in zip(query.order, query.identities, strict=True)
    ]
    try:
        found = await work
    except UID2Error:
        emit_failed_counts(hooks, endpoint, Counter(kinds))
        raise
    results = map(_result, found)
    _emit_counts(hooks, endpoint, Counter(zip(kinds, results, strict=True)))
    return found


def emit_identity_counts(
    hooks: Sequence[Hook], endpoint: str, rows: Mapping[str, Sequence[MapRow]]
) -> None:
    """Emit the results of a reply's rows, which are keyed by the kind sent."""
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
    """Emit how many identities of each kind got no answer."""
    _emit_counts(
        hooks, endpoint, {(kind, "error"): count for kind, count in counts.items()}
    )


def _result(row: MapRow | MappedUID | Unmapped) -> str:
    """Return the result of one identity: mapped, optout or invalid."""
    if row.raw_uid is not None and row.reason is None:
        return "mapped"
    return "optout" if row.reason == _OPTED_OUT else "invalid"


def _emit_counts(
    hooks: Iterable[Hook], endpoint: str, counts: Mapping[tuple[str, str], int]
) -> None:
    """Emit one event for each pair of kind, without ``_hash``, and result."""
    merged: Counter[tuple[str, str]] = Counter()
    for (kind, result), count in counts.items():
        # Raw UIDs, of which their status is asked, are no identities.
        if kind in KINDS or kind == "token":
            merged[kind.removesuffix("_hash"), result] += count
    for (kind, result), count in merged.items():
        event = IdentitiesAnswered(
            endpoint=endpoint, kind=kind, result=result, count=count
        )
        emit(hooks, event)


strip_tracebacks(globals())
