"""Values that the state of bulk mapping takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple

import attrs

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError, InputError
from uid2_async.models import (
    IdentityScope,
    IdentityType,
    MapRow,
    UnmappedReason,
    ms_from_datetime,
)

KINDS: Final = tuple(sorted(IdentityType, key=lambda kind: kind.bit))
"""The identity types by their bit, which is how the state stores them."""

RETENTION_SECONDS: Final = 90 * 86_400
"""How long a replaced UID and the history are kept: as long as the operator returns
the previous UID."""

RECHECK_AFTER: Final = timedelta(days=7)
"""How long a check of a mapped identity counts."""

OPTOUT_RECHECK: Final = timedelta(days=30)
"""The same after an opt-out."""

INVALID_RECHECK: Final = timedelta(days=180)
"""The same for an identity that the operator calls invalid."""

DUE_DAYS: Final = 60
"""For how many days the statistics count what becomes due."""

OPT_OUT_DAYS: Final = RETENTION_SECONDS // 86_400
"""For how many days the statistics know the day of an opt-out."""

AGE_DAYS: Final = (1, 7, 30, 90, 180)
"""The limits of the age classes, in days since the last check."""


class ChangeKind(StrEnum):
    """What a delta says about an identity."""

    ADDED = "ADDED"
    ROTATED = "ROTATED"
    OPTED_OUT = "OPTED_OUT"
    RETURNED = "RETURNED"
    REMOVED = "REMOVED"


class IdentityKey(NamedTuple):
    """How the state refers to a person; never the DII itself.

    Attributes:
        kind: E-mail or phone.
        identity: The first-level hash: 32 bytes, or 31 or 33 (docs/protocol.md 3.3).
    """

    kind: IdentityType
    identity: bytes

    def __repr__(self) -> str:
        """Show the kind only."""
        return f"IdentityKey({self.kind.value}, ***)"


class StateRow(MapRow, frozen=True, gc=False, array_like=True):
    """What the state knows about one identity: the fields of a map reply, and its own.

    Attributes:
        checked_s: *checked* in seconds since the Unix epoch.
        change: The pending change, a :class:`ChangeKind`, or None.
        old_uid: The raw UID of the last delta that the pending change replaces.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("mapped", "checked", "change")

    checked_s: int = 0
    change: str | None = None
    old_uid: str | None = None

    @property
    def checked(self) -> datetime:
        """When the operator was last asked."""
        return datetime.fromtimestamp(self.checked_s, UTC)


SUPPRESSED: Final = StateRow(reason=UnmappedReason.OPTED_OUT.value)
"""The row of a person who was purged for good: the same as after an opt-out."""


class Change(RedactedRepr, frozen=True, gc=False):
    """One line of an audience delta.

    Attributes:
        kind: The type of the identity.
        identity: The first-level hash.
        change: What happened.
        uid: The raw UID from now on, or None.
        old_uid: The raw UID that was exported before, or None.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("kind", "change")

    kind: IdentityType
    identity: bytes
    change: ChangeKind
    uid: str | None
    old_uid: str | None


@attrs.frozen(kw_only=True)
class Run:
    """One job that works with the state.

    Attributes:
        number: 1 for the first run of a state, and so on.
        started: When it began, in seconds since the Unix epoch. A resumed run keeps it.
        job: The fingerprint of the job, or None.
        segment: The audience that the job replaces as a whole, or None.
        epoch: The number of the next delta at the time the run began.
        removed: How many identities the run removed because they were absent.
        ended: Whether it is finished.
    """

    number: int
    started: int
    job: str | None = None
    segment: str | None = None
    epoch: int = 1
    removed: int = 0
    ended: bool = attrs.field(default=False, converter=bool)


@attrs.frozen(kw_only=True)
class StateSelection:
    """Which identities the operator is asked about; made by its class methods.

    Attributes:
        source: Where they come from: ``staged``, ``due``, ``sweep`` or ``buckets``.
        unchecked_for: How long ago the last check is, in seconds (sweep).
        rotated: When each of these salt buckets rotated last, in seconds since the
            Unix epoch (API v2).
    """

    source: str
    unchecked_for: int = 0
    rotated: Mapping[str, int] = attrs.field(factory=dict, repr=False)

    @classmethod
    def staged(cls) -> StateSelection:
        """Select staged identities that are unknown, due or not checked for too long.

        This is what a job that maps files asks about.
        """
        return cls(source="staged")

    @classmethod
    def due(cls) -> StateSelection:
        """Select what a refresh asks about.

        These are mapped identities whose ``refresh_from`` has come, and unmapped ones
        whose recheck interval is over.
        """
        return cls(source="due")

    @classmethod
    def sweep(cls, unchecked_for: timedelta) -> StateSelection:
        """Select mapped and opted-out identities without a check for that long."""
        seconds = int(unchecked_for.total_seconds())
        return cls(source="sweep", unchecked_for=seconds)

    @classmethod
    def of_buckets(cls, rotated: Mapping[str, datetime]) -> StateSelection:
        """Select what was last checked before its salt bucket rotated (API v2)."""
        times = {name: seconds_from(at) for name, at in rotated.items()}
        return cls(source="buckets", rotated=times)


class StagingCounts(NamedTuple):
    """How much a job staged.

    Attributes:
        staged: How many identities, duplicates included.
        distinct: How many different ones, as far as they have been selected.
        known: How many of these the state answered without a request.
    """

    staged: int = 0
    distinct: int = 0
    known: int = 0


@attrs.frozen(kw_only=True)
class StateStatistics:
    """The contents of a state in numbers; nothing in it identifies anybody.

    Attributes:
        now: When it was counted, in seconds since the Unix epoch. Days are UTC days.
        rows: How many identities of each type have each status: ``mapped``, or a reason
            of the operator.
        removed: How many are only kept until a delta has said REMOVED.
        pending: How many changes no delta has exported yet.
        due: How many a refresh would ask about now.
        overdue: How many mapped ones are among them.
        due_days: How many mapped ones become due today, tomorrow and so on, for
            ``DUE_DAYS`` days.
        due_later: How many become due after that.
        due_by_bucket: How many have no such day, because the v2 endpoint returns none.
        opt_outs: How many were mapped before and found to be opted out today, yesterday
            and so on, for ``OPT_OUT_DAYS`` days.
        opt_outs_before: How many earlier than that, or when they were first asked.
        versions: How many raw UIDs have which version; None is an unknown version.
        ages: How many identities were checked within each limit of ``AGE_DAYS``, and
            how many longer ago.
        oldest_check: When the least recently checked one was checked, in seconds.
        suppressed: How many people were purged for good.
        runs: All runs, the first one first.
        scope: The scope that the state belongs to, or None before the first run.
        operator: The operator that the state belongs to, or None before the first run.
        file_bytes: The size of the file.
    """

    now: int
    rows: Mapping[tuple[IdentityType, str], int]
    removed: int
    pending: int
    due: int
    overdue: int
    due_days: Sequence[int]
    due_later: int
    due_by_bucket: int
    opt_outs: Sequence[int]
    opt_outs_before: int
    versions: Mapping[int | None, int]
    ages: Sequence[int]
    oldest_check: int | None
    suppressed: int
    runs: Sequence[Run]
    scope: IdentityScope | None
    operator: str | None
    file_bytes: int


def recheck_seconds(
    recheck_after: timedelta, optout_recheck: timedelta, invalid_recheck: timedelta
) -> dict[str, int]:
    """Return the recheck intervals in seconds, by the names that queries give them."""
    intervals = {
        "recheck": recheck_after,
        "optout_recheck": optout_recheck,
        "invalid_recheck": invalid_recheck,
    }
    if min(intervals.values()) < timedelta(seconds=1):
        raise ConfigError("A recheck interval must be at least one second.")
    return {name: int(one.total_seconds()) for name, one in intervals.items()}


def seconds_from(instant: datetime) -> int:
    """Convert an aware instant to whole seconds since the Unix epoch, rounded down."""
    seconds = ms_from_datetime(instant) // 1000
    if seconds < 0:
        raise InputError("The time is before 1970.")
    return seconds


strip_tracebacks(globals())
