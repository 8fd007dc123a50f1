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

__all__ = ["counted", "counted_map", "tell_failed", "tell_rows"]

T = TypeVar("T", bound=IdentityTokens | OptedOut | InsufficientConsent)

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_RESULTS: Final = {
    IdentityTokens: "token",
    OptedOut: "optout",
    InsufficientConsent: "no_consent",
}


async def counted(
    work: Awaitable[T], *, hooks: Sequence[Hook], endpoint: str, kind: str
) -> T:
    """Await the answer about one person, and tell *hooks* what it was."""
    if not hooks:
        return await work
    try:
        found = await work
    except UID2Error:
        tell_failed(hooks, endpoint, {kind: 1})
        raise
    _tell(hooks, endpoint, {(kind, _RESULTS[type(found)]): 1})
    return found


async def counted_map(
    work: Awaitable[IdentityMap],
    *,
    hooks: Sequence[Hook],
    endpoint: str,
    query: MapQuery,
) -> IdentityMap:
    """Await the answer to *query*, and tell *hooks* what became of its identities."""
    if not hooks:
        return await work
    kinds = [
        key or kind_and_value(one)[0]
        for key, one in zip(query.order, query.identities, strict=True)
    ]
    try:
        found = await work
    except UID2Error:
        tell_failed(hooks, endpoint, Counter(kinds))
        raise
    results = map(_result, found)
    _tell(hooks, endpoint, Counter(zip(kinds, results, strict=True)))
    return found


def tell_rows(
    hooks: Sequence[Hook], endpoint: str, rows: Mapping[str, Sequence[MapRow]]
) -> None:
    """Tell *hooks* of the rows of a reply, which come by the kind that was sent."""
    if hooks:
        counts = {
            (kind, result): count
            for kind, found in rows.items()
            for result, count in Counter(map(_result, found)).items()
        }
        _tell(hooks, endpoint, counts)


def tell_failed(
    hooks: Sequence[Hook], endpoint: str, counts: Mapping[str, int]
) -> None:
    """Tell *hooks* about how many of each kind there was no answer."""
    _tell(hooks, endpoint, {(kind, "error"): count for kind, count in counts.items()})


def _result(row: MapRow | MappedUID | Unmapped) -> str:
    """Name what became of an identity."""
    if row.raw_uid is not None and row.reason is None:
        return "mapped"
    return "optout" if row.reason == _OPTED_OUT else "invalid"


def _tell(
    hooks: Iterable[Hook], endpoint: str, counts: Mapping[tuple[str, str], int]
) -> None:
    """Emit one event for each kind, hashed or not, and result."""
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
