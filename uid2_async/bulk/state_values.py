"""The values that the state of bulk mapping accepts and returns."""

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
"""The identity types by the bit with which the state stores them."""

RETENTION_SECONDS: Final = 90 * 86_400
"""How long a replaced UID and the history are kept.

As long as the operator returns the previous UID.
"""

RECHECK_AFTER: Final = timedelta(days=7)
"""How long a check of a mapped identity is valid."""

OPTOUT_RECHECK: Final = timedelta(days=30)
"""The same after an opt-out."""

INVALID_RECHECK: Final = timedelta(days=180)
"""The same for an identity that the operator reports as invalid."""

DEFAULT_SEGMENT: Final = "default"
"""The audience that also has the mapped people who are in no segment."""

DUE_DAYS: Final = 60
"""The number of days for which the statistics count due identities."""

OPT_OUT_DAYS: Final = RETENTION_SECONDS // 86_400
"""The number of days for which the statistics count opt-outs by day."""

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
    """The key of a person in the state; never the DII itself.

    Attributes:
        kind: Email or phone.
        identity: The first-level hash: 32 bytes, or 31 or 33 (docs/protocol.md 3.3).
    """

    kind: IdentityType
    identity: bytes

    def __repr__(self) -> str:
        """Show only the kind."""
        return f"IdentityKey({self.kind.value}, ***)"


class StateRow(MapRow, frozen=True, gc=False, array_like=True):
    """What the state knows about one identity: the fields of a map reply, and more.

    Attributes:
        checked_s: *checked* in seconds since the Unix epoch.
        change: The pending change, a :class:`ChangeKind`, or None.
        old_uid: The raw UID in the last delta, which the pending change replaces.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("mapped", "checked", "change")

    checked_s: int = 0
    change: str | None = None
    old_uid: str | None = None

    @property
    def checked(self) -> datetime:
        """The time of the last check with the operator."""
        return datetime.fromtimestamp(self.checked_s, UTC)


SUPPRESSED: Final = StateRow(reason=UnmappedReason.OPTED_OUT.value)
"""The row of a suppressed person: the same as after an opt-out."""


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
    """One job that uses the state.

    Attributes:
        number: 1 for the first run of a state, and so on.
        started: The start time in seconds since the Unix epoch. A resumed run keeps it.
        job: The fingerprint of the job, or None.
        segment: The audience that the job replaces as a whole, or None.
        epoch: The number of the next delta when the run started.
        removed: The number of identities removed by the run because they were absent.
        ended: Whether it is finished.
    """

    number: int
    started: int
    job: str | None = None
    segment: str | None = None
    epoch: int = 1
    removed: int = 0
    ended: bool = attrs.field(default=False, converter=bool)


class StagingCounts(NamedTuple):
    """How many identities a job staged.

    Attributes:
        staged: The number of identities, including duplicates.
        distinct: The number of distinct identities selected so far.
        known: The number of these that the state answered without a request.
    """

    staged: int = 0
    distinct: int = 0
    known: int = 0


@attrs.frozen(kw_only=True)
class StateStatistics:
    """The contents of a state in numbers, which identify nobody.

    Attributes:
        now: The time of counting in seconds since the Unix epoch. Days are UTC days.
        rows: The number of identities by type and status: ``mapped``, or the operator's
            reason.
        removed: The number kept only until a delta has reported REMOVED.
        pending: The number of changes that no delta has exported yet.
        due: The number that a refresh would ask about now.
        overdue: The number of mapped ones among these.
        due_days: The number of mapped ones that become due today, tomorrow and so on,
            for ``DUE_DAYS`` days.
        due_later: The number that become due after that.
        due_by_bucket: The number without such a day, because the v2 endpoint returns
            none.
        opt_outs: The number that were mapped before and found to be opted out today,
            yesterday and so on, for ``OPT_OUT_DAYS`` days.
        opt_outs_before: The number found earlier than that, or on their first check.
        versions: The number of raw UIDs by version. None is an unknown version.
        ages: The number of identities checked within each limit of ``AGE_DAYS``, and
            the number checked longer ago.
        oldest_check: The time of the oldest check, in seconds since the Unix epoch.
        suppressed: The number of suppressed people.
        runs: All runs, oldest first.
        scope: The scope that the state is bound to, or None before the first run.
        operator: The operator that the state is bound to, or None before the first run.
        file_bytes: The size of the file in bytes.
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
    """Return the recheck intervals in seconds, by their names in queries."""
    intervals = {
        "recheck": recheck_after,
        "optout_recheck": optout_recheck,
        "invalid_recheck": invalid_recheck,
    }
    if min(intervals.values()) < timedelta(seconds=1):
        raise ConfigError("A recheck interval must be at least one second.")
    return {name: int(one.total_seconds()) for name, one in intervals.items()}


def seconds_from(instant: datetime) -> int:
    """Convert an aware datetime to whole seconds since the Unix epoch, rounded down."""
    seconds = ms_from_datetime(instant) // 1000
    if seconds < 0:
        raise InputError("The time is before 1970.")
    return seconds


strip_tracebacks(globals())
