"""From opt-out statuses to the column of a file that is to be shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from uid2_async.bulk.batches import ABSENT
from uid2_async.bulk.file_feed import RowStep
from uid2_async.bulk.file_job import Made
from uid2_async.bulk.outcome_columns import Content, Ending
from uid2_async.bulk.records import MapFailure, Outcome
from uid2_async.protocol.raw_uid import Environment, inspect_raw_uid

__all__ = ["StatusColumns", "ending_of"]

OK: Final = "ok"
OPTED_OUT: Final = "opted_out"
UNVERIFIABLE: Final = "unverifiable"
INVALID: Final = "invalid"
FAILED: Final = "failed"

_WORDS: Final = {
    Ending.MAPPED: OK,
    Ending.OPTED_OUT: OPTED_OUT,
    Ending.OTHER: UNVERIFIABLE,
    Ending.INVALID: INVALID,
    Ending.EMPTY: INVALID,
    Ending.FAILED: FAILED,
}
_HIDDEN: Final = (Environment.INTEG, Environment.PROD)


def ending_of(outcome: Outcome) -> Ending:
    """Say what is known about a raw UID: MAPPED is ok, OTHER is unverifiable."""
    if isinstance(outcome, MapFailure):
        return Ending.FAILED
    if outcome.u is None:
        if outcome is ABSENT:
            return Ending.EMPTY
        return Ending.OPTED_OUT if outcome.e == "optout" else Ending.INVALID
    # The operator does not find these in its list (docs/protocol.md 2.7).
    info = inspect_raw_uid(outcome.u)
    if info is not None and info.environment in _HIDDEN:
        return Ending.OTHER
    return Ending.MAPPED


class StatusColumns:
    """Makes the column STATUS, or leaves out what must not be shared.

    Attributes:
        contents: The columns in order, and what stands in each.
        endings: How many rows have ended how: *mapped* is ok, *other* unverifiable.
    """

    contents: ClassVar[Mapping[str, Content]] = {"STATUS": Content.TEXT}

    def __init__(self, *, drop: bool, allow_unverifiable: bool) -> None:
        """Say what is kept.

        Args:
            drop: Whether only those rows are written that may be shared.
            allow_unverifiable: Whether those may whose status nobody can tell.
        """
        self.endings: Counter[str] = Counter()
        self._drop = drop
        self._kept = {OK, UNVERIFIABLE} if allow_unverifiable else {OK}

    def make(
        self,
        step: RowStep,  # noqa: ARG002 - the answers tell the raw UIDs
        outcomes: Sequence[Sequence[Outcome]],
    ) -> Made:
        """Make the columns of some rows; there is one raw UID in each."""
        (found,) = outcomes
        endings = list(map(ending_of, found))
        self.endings.update(endings)
        statuses = [_WORDS[one] for one in endings]
        if not self._drop:
            return Made({"STATUS": statuses})
        rows = [at for at, one in enumerate(statuses) if one in self._kept]
        return Made({"STATUS": [statuses[at] for at in rows]}, rows)
