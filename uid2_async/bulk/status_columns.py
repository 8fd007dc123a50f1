"""From opt-out statuses to the column of a file that is to be shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from uid2_async.bulk.file_feed import RowStep
from uid2_async.bulk.file_job import Made
from uid2_async.bulk.outcome_columns import Content
from uid2_async.bulk.records import MapFailure, Outcome
from uid2_async.protocol.raw_uid import Environment, inspect_raw_uid

__all__ = ["FAILED", "INVALID", "OK", "OPTED_OUT", "UNVERIFIABLE", "StatusColumns"]

OK: Final = "ok"
OPTED_OUT: Final = "opted_out"
UNVERIFIABLE: Final = "unverifiable"
INVALID: Final = "invalid"
FAILED: Final = "failed"


def _status(uid: str, outcome: Outcome) -> str:
    """Say what is known about one raw UID."""
    if isinstance(outcome, MapFailure):
        return FAILED
    if outcome.u is None:
        return OPTED_OUT if outcome.e == "optout" else INVALID
    # The operator does not find these in its list (docs/protocol.md 2.7).
    info = inspect_raw_uid(uid)
    if info is not None and info.environment in (Environment.INTEG, Environment.PROD):
        return UNVERIFIABLE
    return OK


class StatusColumns:
    """Makes the column STATUS, or leaves out what must not be shared.

    Attributes:
        contents: The columns in order, and what stands in each.
        endings: How many rows have ended how.
    """

    def __init__(self, *, drop: bool, allow_unverifiable: bool) -> None:
        """Say what is kept.

        Args:
            drop: Whether only those rows are written that may be shared.
            allow_unverifiable: Whether those may whose status nobody can tell.
        """
        self.contents: Mapping[str, Content] = {
            "STATUS": Content.TEXT,
            "ERROR": Content.TEXT,
        }
        self.endings: Counter[str] = Counter()
        self._drop = drop
        self._kept = {OK, UNVERIFIABLE} if allow_unverifiable else {OK}

    def make(self, step: RowStep, outcomes: Sequence[Sequence[Outcome]]) -> Made:
        """Make the columns of some rows; there is one raw UID in each."""
        (found,) = outcomes
        (named,) = step.named
        statuses = [
            _status(uid or "", outcome)
            for uid, outcome in zip(named.values, found, strict=True)
        ]
        self.endings.update(statuses)
        columns = {
            "STATUS": [None if one == FAILED else one for one in statuses],
            "ERROR": [
                one.code if isinstance(one, MapFailure) else None for one in found
            ],
        }
        if not self._drop:
            return Made(columns)
        rows = [at for at, one in enumerate(statuses) if one in self._kept]
        kept = {name: [cells[at] for at in rows] for name, cells in columns.items()}
        return Made(kept, rows)
