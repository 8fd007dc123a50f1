"""What goes into the state of bulk mapping, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, NamedTuple

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import (
    IdentityScope,
    IdentityType,
    MapRow,
    UnmappedReason,
    ms_from_datetime,
)

__all__ = [
    "Change",
    "ChangeKind",
    "IdentityKey",
    "Run",
    "Selection",
    "StateCounts",
    "StateRow",
    "seconds_from",
]


class ChangeKind(StrEnum):
    """What a delta tells about an identity."""

    ADDED = "ADDED"
    ROTATED = "ROTATED"
    OPTED_OUT = "OPTED_OUT"
    RETURNED = "RETURNED"
    REMOVED = "REMOVED"


class IdentityKey(NamedTuple):
    """What the state knows a person by: never the DII itself.

    Attributes:
        kind: E-mail or phone.
        identity: The first-level hash: 32 bytes, or 31 or 33 (docs/protocol.md 3.3).
    """

    kind: IdentityType
    identity: bytes

    def __repr__(self) -> str:
        """Show the kind alone."""
        return f"IdentityKey({self.kind.value}, ***)"


class StateRow(MapRow, frozen=True, gc=False, array_like=True):
    """What the state says about one identity; the fields of a map reply, and its own.

    Attributes:
        c: When it was checked last, in seconds since the Unix epoch.
        s: The number of its change that no delta has told yet; 0 where there is none.
        x: That change, a :class:`ChangeKind`, or None.
        o: The raw UID that the last delta told, which that change ends, or None.
    """

    shown: ClassVar[tuple[str, ...]] = ("mapped", "c", "s", "x")

    c: int = 0
    s: int = 0
    x: str | None = None
    o: str | None = None


FORGOTTEN = StateRow(e=UnmappedReason.OPTED_OUT.value)
"""What is said of a person who was purged for good: the same as of an opt-out."""


@attrs.frozen(kw_only=True)
class Change:
    """One line of an audience delta.

    Attributes:
        seq: Its number; later changes have higher ones.
        run: The number of the run that found it.
        kind: The type of the identity.
        identity: The first-level hash.
        change: What happened.
        uid: The raw UID from now on, or None.
        old_uid: The raw UID that was told before, or None.
    """

    seq: int
    run: int
    kind: IdentityType
    identity: bytes = attrs.field(repr=False)
    change: ChangeKind
    uid: str | None = attrs.field(repr=False)
    old_uid: str | None = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Run:
    """One job that works with the state.

    Attributes:
        number: 1 for the first run of a state, and so on.
        started: When it began, in whole seconds since the Unix epoch; a run that is
            resumed keeps it.
        job: What the caller calls it, or None.
        after: The number of the last change before it.
        ended: Whether it was finished.
    """

    number: int
    started: int
    job: str | None = None
    after: int = 0
    ended: bool = False


@attrs.frozen(kw_only=True)
class Selection:
    """Which identities are to be asked about again; made by its three class methods.

    Attributes:
        unchecked_for: What no check was made of for so long, mapped or opted out.
        rotated: When each of these salt buckets rotated last, in seconds since the
            Unix epoch.
    """

    unchecked_for: timedelta | None = None
    rotated: Mapping[str, int] | None = attrs.field(default=None, repr=False)

    @classmethod
    def refresh(cls) -> Selection:
        """Select what is due: ``refresh_from`` has come, or the slow cadence has."""
        return cls()

    @classmethod
    def sweep(cls, unchecked_for: timedelta) -> Selection:
        """Select all that is mapped or opted out and was not checked for so long."""
        return cls(unchecked_for=unchecked_for)

    @classmethod
    def of_buckets(cls, rotated: Mapping[str, datetime]) -> Selection:
        """Select what was last checked before its salt bucket rotated (API v2)."""
        times = {name: seconds_from(at) for name, at in rotated.items()}
        return cls(rotated=times)


@attrs.frozen(kw_only=True)
class StateCounts:
    """The contents of a state in numbers.

    Attributes:
        rows: How many identities of each type have each status: ``mapped``, a reason
            of the operator, or ``removed`` until a delta has told it.
        due: How many are due for a refresh.
        oldest_check: When the longest unchecked was checked, in seconds since the Unix
            epoch, or None.
        untold: How many changes no delta has told yet.
        forgotten: How many were purged for good.
        runs: All runs, the first one first.
        scope: The scope that it belongs to, or None before the first run.
        operator: The operator that it belongs to, or None before the first run.
        file_bytes: The size of the file.
    """

    rows: Mapping[tuple[IdentityType, str], int]
    due: int
    oldest_check: int | None
    untold: int
    forgotten: int
    runs: tuple[Run, ...]
    scope: IdentityScope | None
    operator: str | None
    file_bytes: int


def seconds_from(instant: datetime) -> int:
    """Turn an aware *instant* into whole seconds since the Unix epoch, rounded down.

    Raises:
        InputError: If *instant* is naive or before 1970.
    """
    seconds = ms_from_datetime(instant) // 1000
    if seconds < 0:
        raise InputError("An instant before 1970 was given.")
    return seconds


strip_tracebacks(globals())
