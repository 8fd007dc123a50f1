"""What comes out of a bulk job: records, failures and progress."""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import MappedUID, MapRow, Unmapped

__all__ = ["InvalidPhone", "MapFailure", "MapRecord", "Outcome", "Progress"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class MapFailure:
    """An identity about which the operator could not be asked; never an opt-out.

    Attributes:
        error: The name of the error's class, such as ``ServerError``.
        status: The HTTP status, or None where there was no answer.
    """

    error: str
    status: int | None = None

    @property
    def code(self) -> str:
        """The failure in a word or two, for the column ERROR of a file."""
        return self.error if self.status is None else f"{self.error} {self.status}"


class InvalidPhone(MapRow, frozen=True, gc=False):
    """An invalid identifier of which it is known why it is no phone number.

    Attributes:
        code: The reason in a word, for the column ERROR of a file.
    """

    code: str = ""


Outcome: TypeAlias = MapRow | MapFailure


class MapRecord(msgspec.Struct, Generic[T], gc=False, eq=False):
    """An item of the input and what became of it.

    The garbage collector does not look at records: a thousand of them a step would
    make it run over the whole program again and again. So do not let an item point to
    its own record.

    Attributes:
        item: What the caller's iterable gave, the very object.
        outcome: The row of the reply as decoded, or the failure: what bulk work reads.
    """

    item: T
    outcome: Outcome

    @property
    def result(self) -> MappedUID | Unmapped | MapFailure:
        """What became of the item, in its public form."""
        if isinstance(self.outcome, MapFailure):
            return self.outcome
        return self.outcome.result()

    def __repr__(self) -> str:
        """Show the outcome; the item may be DII."""
        return f"MapRecord(outcome={self.outcome!r})"


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: How many records have been handed out.
        mapped: How many of them have a raw UID.
        opted_out: How many are opted out.
        invalid: How many are invalid, or unmapped for a reason that is not known.
        failed: How many could not be asked about.
        duplicates: How many rows were answered by the request for an earlier one.
        batches: How many batches have been answered.
        in_flight: How many batches are being sent.
        limit: How many may be, at this moment.
        throttled: How often the operator asked to slow down.
    """

    rows: int = 0
    mapped: int = 0
    opted_out: int = 0
    invalid: int = 0
    failed: int = 0
    duplicates: int = 0
    batches: int = 0
    in_flight: int = 0
    limit: int = 0
    throttled: int = 0


strip_tracebacks(globals())
