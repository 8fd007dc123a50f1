"""The rows of a mapped file, and what the delta says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from uid2_async.bulk.delta import DeltaLines
from uid2_async.bulk.feed import Named
from uid2_async.bulk.file_feed import RowStep
from uid2_async.bulk.file_job import Made
from uid2_async.bulk.outcome_columns import OutcomeColumns
from uid2_async.bulk.records import Outcome
from uid2_async.bulk.state import StateRow
from uid2_async.protocol.normalize import HASH_KINDS, READERS

__all__ = ["MapRows"]


class MapRows:
    """Makes the columns of mapped rows.

    Attributes:
        endings: How many rows have ended how.
    """

    def __init__(
        self,
        columns: OutcomeColumns,
        *,
        explode: bool = False,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Make *columns*.

        Args:
            columns: What is added to the rows.
            explode: Whether each identifier gets a row of its own.
            keys: The columns of the input that a delta repeats; None for no delta.
        """
        self.endings: Counter[str] = columns.endings
        self._columns = columns
        self._explode = explode
        self._keys = keys
        self._lines = DeltaLines()

    def make(self, step: RowStep, outcomes: Sequence[Sequence[Outcome]]) -> Made:
        """See :meth:`~uid2_async.bulk.file_job.RowMaker.make`."""
        delta = b"" if self._keys is None else self._tell(step, outcomes, self._keys)
        if self._explode:
            columns, rows = self._columns.explode(outcomes)
            return Made(columns, rows, delta)
        return Made(self._columns.make(outcomes), None, delta)

    def _tell(
        self,
        step: RowStep,
        outcomes: Sequence[Sequence[Outcome]],
        keys: Sequence[str],
    ) -> bytes:
        """Write a line for each identity that has changed, row after row."""
        changed = [
            (row, place, outcome)
            for place, found in enumerate(outcomes)
            for row, outcome in enumerate(found)
            if isinstance(outcome, StateRow) and outcome.s
        ]
        if len(outcomes) > 1:
            changed.sort(key=itemgetter(0, 1))
        cells = [step.chunk.values(key) for key in keys]
        return self._lines.write(
            (outcome, *_identify(step.named[place], row), [one[row] for one in cells])
            for row, place, outcome in changed
        )


def _identify(named: Named, row: int) -> tuple[str, bytes]:
    """Say who a row names, as kind and identity: it has been found valid before."""
    kind = named.kinds if isinstance(named.kinds, str) else named.kinds[row]
    return HASH_KINDS[kind], READERS[kind](named.values[row] or "") or b""
