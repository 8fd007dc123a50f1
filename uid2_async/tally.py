"""Counts what became of identities, for whoever observes a client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from uid2_async.errors import UID2Error
from uid2_async.hooks import Hook, IdentitiesAnswered, emit
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
    "count_identities",
    "count_identity",
    "emit_failed_counts",
    "emit_identity_counts",
]

T = TypeVar("T", bound=IdentityTokens | OptedOut | InsufficientConsent)

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_RESULTS: Final = {
    IdentityTokens: "token",
    OptedOut: "optout",
    InsufficientConsent: "no_consent",
}


async def count_identity(
    work: Awaitable[T], *, hooks: Sequence[Hook], endpoint: str, kind: str
) -> T:
    """Await the answer about one person, and emit its result to *hooks*."""
    if not hooks:
        return await work
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
    if not hooks:
        return await work
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
