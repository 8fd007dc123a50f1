"""From the operator's answers to what is written: one batch of one identity type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from uid2_async.bulk.state.stored import Stored, settle, view
from uid2_async.bulk.state.values import ChangeKind, StateRow
from uid2_async.models import MapRow

__all__ = [
    "DIGEST_BYTES",
    "UID_LETTERS",
    "Additions",
    "Batch",
    "settle_batch",
    "stored_of_added",
]

DIGEST_BYTES: Final = 32
"""Of how many bytes the identities of :class:`Additions` are."""

UID_LETTERS: Final = 44
"""Of how many ASCII letters their UIDs are."""

_ADDED: Final = ChangeKind.ADDED.value


@attrs.frozen(kw_only=True, repr=False)
class Additions:
    """Identities that were not known, and are mapped: a first load is little else.

    Columns, and no row for each, since to make those would take longer than SQLite
    needs to write them. Their changes are numbered one after the other.

    Attributes:
        identities: Who.
        uids: Their raw UIDs.
        dues: When to ask again, in seconds since the Unix epoch.
        first: The number of the first change.
        views: What the state says of each.
    """

    identities: Sequence[bytes]
    uids: Sequence[str]
    dues: Sequence[int]
    first: int
    views: Sequence[StateRow]


@attrs.frozen(kw_only=True, repr=False)
class Batch:
    """What is to be written of one identity type; nobody is in it twice.

    Attributes:
        bit: The type.
        checked: When they were checked, all of them, in seconds since the Unix epoch.
        added: Those who are kept as columns.
        identities: The others.
        rows: Their rows.
        views: What the state says of each.
        replaced: The numbers of the untold changes that theirs replace.
        next_seq: The number for the next change.
    """

    bit: int
    checked: int
    added: Additions
    identities: Sequence[bytes]
    rows: Sequence[Stored]
    views: Sequence[StateRow | None]
    replaced: Sequence[int]
    next_seq: int

    def each_view(self) -> Iterator[tuple[bytes, StateRow | None]]:
        """Say what the state says of each identity."""
        yield from zip(self.added.identities, self.added.views, strict=True)
        yield from zip(self.identities, self.views, strict=True)


def settle_batch(
    bit: int,
    olds: Sequence[Stored | None],
    answers: Mapping[bytes, MapRow],
    *,
    now: int,
    told_seq: int,
    next_seq: int,
) -> Batch:
    """Settle the *answers* about identities of one type.

    Args:
        bit: The type.
        olds: What was stored before, aligned with *answers*.
        answers: What the operator said of each identity.
        now: When the run began, in seconds since the Unix epoch.
        told_seq: The number of the last change that a delta has told.
        next_seq: The number for the first new change.
    """
    places = _find_additions(olds, answers)
    others: dict[bytes, tuple[Stored | None, MapRow]] = {}
    new = answers
    if len(places) < len(answers):
        each = list(zip(answers, zip(olds, answers.values(), strict=True), strict=True))
        new = {each[at][0]: each[at][1][1] for at in places}
        others = {identity: pair for identity, pair in each if identity not in new}
    added = _add(new, now, next_seq)
    next_seq += len(new)
    rows: list[Stored] = []
    replaced: list[int] = []
    for old, answer in others.values():
        row = settle(old, answer, now=now, told_seq=told_seq, next_seq=next_seq)
        if old is not None and old.seq > told_seq and old.seq != row.seq:
            replaced.append(old.seq)
        if row.seq == next_seq:
            next_seq += 1
        rows.append(row)
    return Batch(
        bit=bit,
        checked=now,
        added=added,
        identities=list(others),
        rows=rows,
        views=[view(row, now=now, told_seq=told_seq) for row in rows],
        replaced=replaced,
        next_seq=next_seq,
    )


def _find_additions(
    olds: Sequence[Stored | None], answers: Mapping[bytes, MapRow]
) -> list[int]:
    """List the places of those who can be kept as columns."""
    return [
        at
        for at, (old, (identity, answer)) in enumerate(
            zip(olds, answers.items(), strict=True)
        )
        if old is None
        and answer.e is None
        and answer.p is None
        and answer.bucket_id is None
        and answer.r is not None
        and answer.u is not None
        and len(answer.u) == UID_LETTERS
        and answer.u.isascii()
        and len(identity) == DIGEST_BYTES
    ]


def _add(answers: Mapping[bytes, MapRow], now: int, first: int) -> Additions:
    """Make the columns; what :func:`settle` and :func:`view` come to, for each."""
    uids = [answer.u or "" for answer in answers.values()]
    dues = [answer.r or 0 for answer in answers.values()]
    views = [
        StateRow(uid, None, due, None, None, now, seq, _ADDED, None)
        for seq, (uid, due) in enumerate(zip(uids, dues, strict=True), first)
    ]
    return Additions(
        identities=list(answers), uids=uids, dues=dues, first=first, views=views
    )


def stored_of_added(row: StateRow) -> Stored:
    """Give the row of somebody who is among :class:`Additions`, from what it says."""
    return Stored(uid=row.u, refresh_from=row.r, checked=row.c, seq=row.s, change=row.x)
