"""Counts a state for a report: one pass, and nothing in it that names anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.state.store import KINDS, Store
from uid2_async.bulk.state.stored import KEPT_SECONDS, OPTED_OUT, REMOVED
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol import base64
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, raw_uid_version

__all__ = ["AGE_DAYS", "DUE_DAYS", "OPT_OUT_DAYS", "StateFigures", "count_figures"]

DUE_DAYS: Final = 60
"""For how many days it is said how many UIDs are due."""

OPT_OUT_DAYS: Final = KEPT_SECONDS // 86_400
"""For how many days it is known when somebody opted out."""

AGE_DAYS: Final = (1, 7, 30, 90, 180)
"""Where one class of ages ends and the next begins, in days since the last check."""

_OVERDUE: Final = -1
_AGES: Final = " ".join(
    f"WHEN checked > :now - {days * 86_400} THEN {number}"
    for number, days in enumerate(AGE_DAYS)
)
# The first character of a raw UID tells its version; where that is 2 it ends with =.
# Of what has a UID it is counted when it is due, of an opt-out how long it is known.
_COUNT: Final = f"""SELECT kind, coalesce(status, 'mapped'),
    CASE WHEN substr(uid, -1) = '=' THEN '=' ELSE substr(uid, 1, 1) END,
    CASE {_AGES} ELSE {len(AGE_DAYS)} END,
    CASE
        WHEN status IS NULL THEN CASE
            WHEN refresh_from <= :now THEN {_OVERDUE}
            ELSE min(refresh_from / 86400 - :now / 86400, {DUE_DAYS}) END
        WHEN status = '{OPTED_OUT}' THEN :now / 86400 - since / 86400
    END,
    count(*), min(checked)
    FROM mapping
    WHERE identity >= :first AND identity < :last AND status IS NOT '{REMOVED}'
    GROUP BY 1, 2, 3, 4, 5"""


@attrs.frozen(kw_only=True)
class StateFigures:
    """What a report shows of a state.

    Attributes:
        now: When it was counted, in seconds since the Unix epoch; days are UTC's.
        rows: How many identities of each type have each status: ``mapped``, or a reason
            of the operator.
        overdue: How many mapped ones are due already.
        due: How many will be due today, tomorrow and so on, for ``DUE_DAYS`` days.
        due_later: How many after that.
        due_by_bucket: How many have no such day: the v2 endpoint gives none.
        opt_outs: How many were mapped before and seen to be opted out today, yesterday
            and so on, for ``OPT_OUT_DAYS`` days.
        opt_outs_before: How many earlier than that, or when they were first asked.
        versions: How many raw UIDs are of which version; None is none that is known.
        ages: How many identities were checked within the days of ``AGE_DAYS``, and
            how many longer ago.
        oldest_check: When the longest unchecked was checked, in seconds since then.
        runs: How many jobs there have been.
        last_run: When the last one began, in seconds since then.
        scope: The scope that it belongs to, or None before the first run.
        operator: The operator that it belongs to, or None before the first run.
    """

    now: int
    rows: Mapping[tuple[IdentityType, str], int]
    overdue: int
    due: Sequence[int]
    due_later: int
    due_by_bucket: int
    opt_outs: Sequence[int]
    opt_outs_before: int
    versions: Mapping[int | None, int]
    ages: Sequence[int]
    oldest_check: int | None
    runs: int
    last_run: int | None
    scope: IdentityScope | None
    operator: str | None


class _Tally:
    """Sums up the groups that SQL counts."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[IdentityType, str]] = Counter()
        self.versions: Counter[int | None] = Counter()
        self.ages: Counter[int] = Counter()
        self.due: Counter[int | None] = Counter()
        self.opt_outs: Counter[int | None] = Counter()
        self.oldest: int | None = None

    def add(
        self,
        bit: int,
        status: str,
        mark: str | None,
        age: int,
        day: int | None,
        number: int,
        oldest: int,
    ) -> None:
        """Add one group."""
        self.rows[KINDS[bit], status] += number
        self.ages[age] += number
        self.oldest = oldest if self.oldest is None else min(self.oldest, oldest)
        if status == OPTED_OUT:
            self.opt_outs[day] += number
        elif mark is not None:
            self.due[day] += number
            self.versions[_version(mark)] += number


def _version(mark: str) -> int | None:
    """Tell the version of a raw UID by its mark: the first character, or ``=``."""
    if mark == "=":
        return raw_uid_version(RAW_UID_SIZES[0], 0)
    # It holds the high six bits of the first byte; the others are zero.
    head = base64.decode(f"{mark}AAA")
    return None if head is None else raw_uid_version(RAW_UID_SIZES[1], head[0])


def count_figures(store: Store, now: int) -> StateFigures:
    """Count *store* as of *now*; reads the whole state once.

    It goes through 256 parts of it, so that what SQLite sorts fits into its memory.
    """
    store.pending.merge()
    tally = _Tally()
    for first in range(256):
        # Identities are shorter than what no identity comes behind.
        last = bytes([first + 1]) if first < 255 else bytes([255]) * 64  # noqa: PLR2004 - a byte
        part = {"now": now, "first": bytes([first]), "last": last}
        for group in store.connection.execute(_COUNT, part):
            tally.add(*group)
    runs = store.runs()
    dated = [tally.opt_outs[day] for day in range(OPT_OUT_DAYS)]
    scope = store.meta("scope")
    return StateFigures(
        now=now,
        rows=tally.rows,
        overdue=tally.due[_OVERDUE],
        due=[tally.due[day] for day in range(DUE_DAYS)],
        due_later=tally.due[DUE_DAYS],
        due_by_bucket=tally.due[None],
        opt_outs=dated,
        opt_outs_before=tally.opt_outs.total() - sum(dated),
        versions=tally.versions,
        ages=[tally.ages[age] for age in range(len(AGE_DAYS) + 1)],
        oldest_check=tally.oldest,
        runs=len(runs),
        last_run=runs[-1].started if runs else None,
        scope=None if scope is None else IdentityScope(scope),
        operator=store.meta("operator"),
    )


strip_tracebacks(globals())
