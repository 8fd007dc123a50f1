"""From answers to the columns that users of clean rooms and warehouses know.

UID, PREV_UID, REFRESH_FROM and UNMAPPED have the names and values of Snowflake's and
Databricks' functions. ERROR is ours: what could not be asked about is failed, which is
neither an opt-out nor an invalid identity. It also says why a phone is invalid, where
that is known; such a row has an UNMAPPED, which a failed one has not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeAlias

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import ABSENT
from uid2_async.bulk.content import Content
from uid2_async.bulk.records import InvalidPhone, MapFailure, Outcome
from uid2_async.models import MapRow, UnmappedReason

__all__ = ["Content", "Ending", "OptOutRule", "OutcomeColumns", "choose"]

INVALID_IDENTIFIER: Final = "INVALID IDENTIFIER"

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value

Columns: TypeAlias = dict[str, list[Any]]


class Ending(StrEnum):
    """How a row ended."""

    MAPPED = "mapped"
    OPTED_OUT = "opted_out"
    INVALID = "invalid"
    EMPTY = "empty"
    OTHER = "other"
    FAILED = "failed"


class OptOutRule(StrEnum):
    """What an opt-out of one identifier means for a row with several.

    ``any``: the person has opted out, whichever identifier says so. ``each``: the other
    identifiers still count.
    """

    ANY = "any"
    EACH = "each"


_ENDINGS: Final = {
    UnmappedReason.OPTED_OUT.value: Ending.OPTED_OUT,
    UnmappedReason.INVALID_IDENTIFIER.value: Ending.INVALID,
    "invalid input type": Ending.INVALID,
}


def choose(outcomes: Sequence[Outcome], rule: OptOutRule) -> int:
    """Choose which of a row's outcomes, in order of preference, is the row's.

    Where one failed, the row has failed: the next one does not answer for it, and an
    opt-out that could not be seen may be behind it.

    Returns:
        The place in *outcomes*.
    """
    for is_wanted in _WANTED[rule]:
        for at, outcome in enumerate(outcomes):
            if is_wanted(outcome):
                return at
    return next((at for at, one in enumerate(outcomes) if one is not ABSENT), 0)


def _has_failed(outcome: Outcome) -> bool:
    return isinstance(outcome, MapFailure)


def _is_mapped(outcome: Outcome) -> bool:
    return not isinstance(outcome, MapFailure) and outcome.mapped


def _is_opted_out(outcome: Outcome) -> bool:
    return not isinstance(outcome, MapFailure) and outcome.e == _OPTED_OUT


def _has_reason(outcome: Outcome) -> bool:
    return isinstance(outcome, InvalidPhone)


def _decides(outcome: Outcome) -> bool:
    return _is_mapped(outcome) or _has_failed(outcome)


_WANTED: Final = {
    OptOutRule.ANY: (_is_opted_out, _has_failed, _is_mapped, _has_reason),
    OptOutRule.EACH: (_decides, _is_opted_out, _has_reason),
}


class OutcomeColumns:
    """Makes the added columns of some rows.

    Attributes:
        contents: The columns in order, and what stands in each.
        endings: How many rows have ended how.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        rule: OptOutRule = OptOutRule.ANY,
        snake_case: bool = False,
        buckets: bool = False,
        matched_type: bool | None = None,
    ) -> None:
        """Make columns for rows with one identifier of each of *kinds*.

        Args:
            kinds: What MATCHED_TYPE says of each identifier.
            rule: What an opt-out means for a row with several.
            snake_case: Whether names are in lower case.
            buckets: Whether there is a salt bucket, and no time of refresh (v2).
            matched_type: Whether there is MATCHED_TYPE; by default where there are
                several identifiers.
        """
        self.endings: Counter[str] = Counter()
        self._kinds = kinds
        self._rule = rule
        self._buckets = buckets
        self._matched = len(kinds) > 1 if matched_type is None else matched_type
        contents = {"UID": Content.TEXT}
        if buckets:
            contents["BUCKET_ID"] = Content.TEXT
        else:
            contents["PREV_UID"] = Content.TEXT
            contents["REFRESH_FROM"] = Content.INSTANT
        contents["UNMAPPED"] = Content.TEXT
        if self._matched:
            contents["MATCHED_TYPE"] = Content.TEXT
        contents["ERROR"] = Content.TEXT
        if snake_case:
            contents = {name.lower(): one for name, one in contents.items()}
        self.contents: Mapping[str, Content] = contents

    def make(self, outcomes: Sequence[Sequence[Outcome]]) -> Columns:
        """Make the columns.

        Args:
            outcomes: One list for each identifier, with one outcome a row.
        """
        if len(outcomes) == 1:
            return self.of_each(outcomes[0], [0] * len(outcomes[0]))
        rows = list(zip(*outcomes, strict=True))
        places = [choose(row, self._rule) for row in rows]
        chosen = [row[at] for row, at in zip(rows, places, strict=True)]
        return self.of_each(chosen, places)

    def explode(
        self, outcomes: Sequence[Sequence[Outcome]]
    ) -> tuple[Columns, list[int]]:
        """Make the columns of a row for each identifier.

        Args:
            outcomes: One list for each identifier, with one outcome a row.

        Returns:
            The columns, and to which row each of their rows belongs.
        """
        rows: list[int] = []
        places: list[int] = []
        chosen: list[Outcome] = []
        for number, row in enumerate(zip(*outcomes, strict=True)):
            named = [at for at, one in enumerate(row) if one is not ABSENT] or [0]
            rows += [number] * len(named)
            places += named
            chosen += [row[at] for at in named]
        return self.of_each(chosen, places), rows

    def of_each(self, outcomes: Iterable[Outcome], places: Sequence[int]) -> Columns:
        """Make the columns of rows whose identifier has been chosen.

        This loop is run for each row of a file, so the common case comes first and all
        is in one place.

        Args:
            outcomes: One a row.
            places: Which of the identifiers it was.
        """
        uids: list[str | None] = []
        before: list[str | None] = []
        due: list[int | None] = []
        buckets: list[str | None] = []
        unmapped: list[str | None] = []
        errors: list[str | None] = []
        mapped = 0
        for outcome in outcomes:
            why: str | None = None
            error: str | None = None
            if isinstance(outcome, MapFailure):
                error = outcome.code
                self.endings[Ending.FAILED] += 1
            elif outcome.mapped:
                mapped += 1
                uids.append(outcome.u)
                before.append(outcome.p)
                due.append(outcome.r)
                buckets.append(outcome.bucket_id)
                unmapped.append(None)
                errors.append(None)
                continue
            else:
                why = self._explain(outcome)
                error = outcome.code if isinstance(outcome, InvalidPhone) else None
            uids.append(None)
            before.append(None)
            due.append(None)
            buckets.append(None)
            unmapped.append(why)
            errors.append(error)
        self.endings[Ending.MAPPED] += mapped
        middle: list[list[Any]] = [buckets] if self._buckets else [before, due]
        made = [uids, *middle, unmapped]
        if self._matched:
            made.append(
                [
                    None if uid is None else self._kinds[at]
                    for uid, at in zip(uids, places, strict=True)
                ]
            )
        return dict(zip(self.contents, [*made, errors], strict=True))

    def _explain(self, row: MapRow) -> str:
        """Say why a row is not mapped, and count it."""
        if row is ABSENT:
            self.endings[Ending.EMPTY] += 1
            return INVALID_IDENTIFIER
        reason = row.e or UnmappedReason.UNKNOWN.value
        self.endings[_ENDINGS.get(reason, Ending.OTHER)] += 1
        return reason.upper()


strip_tracebacks(globals())
