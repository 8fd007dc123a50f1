"""How one identity lies in the state, and how an answer changes it: pure functions.

What a delta tells is the difference between two things: what the last delta told about
an identity (nothing, a raw UID, or that it is opted out), and what holds now. Only the
first is kept, beside the row, so that changes which cancel out leave nothing to tell.
"""

from __future__ import annotations

from typing import ClassVar, Final

from uid2_async.bulk.state.values import ChangeKind, StateRow
from uid2_async.models import MapRow, UnmappedReason
from uid2_async.veiled import Veiled

__all__ = [
    "COLUMNS",
    "KEPT_SECONDS",
    "OPTED_OUT",
    "REMOVED",
    "Stored",
    "remove",
    "settle",
    "view",
]

KEPT_SECONDS: Final = 90 * 86_400
"""For how long a UID that holds no more is kept: as long as the operator names it."""

REMOVED: Final = "(removed)"
"""The status of what is gone, but of which a delta still has to say so."""

OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
"""The status of who has opted out."""


class Stored(Veiled, frozen=True, gc=False, array_like=True):
    """The columns of one identity, in the order of :data:`COLUMNS`.

    Attributes:
        uid: The raw UID, if it is mapped.
        prev: The UID before it; for what is not mapped any more its last UID.
        since: Since when *prev* does not hold, in seconds since the Unix epoch.
        refresh_from: When to ask again, in seconds since the Unix epoch.
        status: None if it is mapped, else the operator's reason, or ``removed``.
        bucket: The salt bucket, from the v2 endpoint only.
        checked: When the operator was asked last, in seconds since the Unix epoch.
        seq: The number of its last change, 0 where it has none.
        change: That change.
        told: What deltas told before that change: 0 nothing, 1 a UID, 2 an opt-out.
        told_uid: The UID that they told.
    """

    shown: ClassVar[tuple[str, ...]] = ("checked", "seq", "change")

    uid: str | None = None
    prev: str | None = None
    since: int | None = None
    refresh_from: int | None = None
    status: str | None = None
    bucket: str | None = None
    checked: int = 0
    seq: int = 0
    change: str | None = None
    told: int = 0
    told_uid: str | None = None


COLUMNS: Final = Stored.__struct_fields__

_NOTHING: Final = 0
_UID: Final = 1
_OPT_OUT: Final = 2

_BEFORE: Final = Stored()
_ADDED: Final = ChangeKind.ADDED.value


def settle(
    old: Stored | None, answer: MapRow, *, now: int, told_seq: int, next_seq: int
) -> Stored:
    """Give what is to be stored after the operator's *answer*.

    Args:
        old: What was stored before, or None.
        answer: What the operator said.
        now: When the run began, in seconds since the Unix epoch.
        told_seq: The number of the last change that a delta has told.
        next_seq: The number for a new change, if there is one.

    Returns:
        The row; its *seq* is *next_seq* only if the change is new.
    """
    if old is None:
        if answer.u is not None and answer.e is None and answer.p is None:
            # A first load is all of these: what follows comes to the same.
            return Stored(
                uid=answer.u,
                refresh_from=answer.r,
                bucket=answer.bucket_id,
                checked=now,
                seq=next_seq,
                change=_ADDED,
            )
        old = _BEFORE
    if answer.mapped:
        uid, status = answer.u, None
        prev = answer.p or _replaced(old, uid, now)
    else:
        uid, status = None, answer.e or UnmappedReason.UNKNOWN.value
        prev = old.uid or _replaced(old, uid, now)
    since = None
    if prev is not None:
        since = old.since if prev == old.prev else now
    told, told_uid = _told(old, told_seq)
    change = _difference(told, told_uid, uid, status)
    seq = 0
    if change is not None:
        untold = old.seq > told_seq and old.change == change and old.uid == uid
        seq = old.seq if untold else next_seq
    return Stored(
        uid,
        prev,
        since,
        answer.r if uid else None,
        status,
        answer.bucket_id,
        now,
        seq,
        change,
        told,
        told_uid,
    )


def view(row: Stored, *, now: int, told_seq: int) -> StateRow | None:
    """Say of *row* what :data:`uid2_async.bulk.state.reading.VIEW` says in SQL."""
    if row.status == REMOVED:
        return None
    prev = None
    if row.since is not None and row.status is None and row.since > now - KEPT_SECONDS:
        prev = row.prev
    seq, change, told_uid = 0, None, None
    if row.seq > told_seq:
        seq, change, told_uid = row.seq, row.change, row.told_uid
    return StateRow(
        row.uid,
        prev,
        row.refresh_from,
        row.status,
        row.bucket,
        row.checked,
        seq,
        change,
        told_uid,
    )


def remove(old: Stored, *, now: int, told_seq: int, next_seq: int) -> Stored | None:
    """Give what is to be stored of what is gone: None, unless deltas told its UID."""
    told, told_uid = _told(old, told_seq)
    if told != _UID:
        return None
    return Stored(
        status=REMOVED,
        checked=now,
        seq=old.seq if old.status == REMOVED else next_seq,
        change=ChangeKind.REMOVED.value,
        told=told,
        told_uid=told_uid,
    )


def _replaced(old: Stored, uid: str | None, now: int) -> str | None:
    """Name the UID that *uid* replaces, if it did not do so too long ago."""
    if old.uid not in (None, uid):
        return old.uid
    kept = old.since is not None and old.since > now - KEPT_SECONDS
    return old.prev if kept and old.prev != uid else None


def _told(old: Stored, told_seq: int) -> tuple[int, str | None]:
    """Name what the last delta told about an identity."""
    if not 0 < old.seq <= told_seq:
        return old.told, old.told_uid
    if old.uid is not None:
        return _UID, old.uid
    return (_OPT_OUT if old.change == ChangeKind.OPTED_OUT else _NOTHING), None


def _difference(
    told: int, told_uid: str | None, uid: str | None, status: str | None
) -> str | None:
    """Name the change from what was told to what holds now."""
    if uid is not None:
        if told == _NOTHING:
            return ChangeKind.ADDED.value
        if told == _OPT_OUT:
            return ChangeKind.RETURNED.value
        return None if uid == told_uid else ChangeKind.ROTATED.value
    if told != _UID:
        return None
    return (ChangeKind.OPTED_OUT if status == OPTED_OUT else ChangeKind.REMOVED).value
