"""What becomes of an identity or item in bulk work, and how far a job is."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final, Generic, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import MappedUID, MapRow, Unmapped, UnmappedReason
from uid2_async.phones import PhoneFault

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class MapFailure:
    """An identity that the operator could not be asked about. Not an opt-out.

    Attributes:
        error: The name of the error's class, such as ``ServerError``.
        status: The HTTP status, or None if there was no HTTP response.
    """

    # With these it is told from a mapped row without looking at its class.
    raw_uid: ClassVar[None] = None
    reason: ClassVar[None] = None

    error: str
    status: int | None = None

    @property
    def code(self) -> str:
        """The error and status, for the column ERROR of a file."""
        return self.error if self.status is None else f"{self.error} {self.status}"


class OptOutRule(StrEnum):
    """What an opt-out of one identifier means for a row with several.

    ``any``: the person has opted out, whichever identifier says so. ``each``: the other
    identifiers still count.
    """

    ANY = "any"
    EACH = "each"


class InvalidPhone(MapRow, frozen=True, gc=False):
    """An invalid identifier for which the reason is known: see PhoneFault.

    Attributes:
        code: The reason, for the column ERROR of a file.
    """

    code: str = ""


Outcome: TypeAlias = MapRow | MapFailure

ABSENT: Final = MapRow()
"""The outcome of a cell without an identity."""

INVALID: Final = MapRow(reason=UnmappedReason.INVALID_IDENTIFIER.value)
"""The outcome of an identity that the operator would reject. It is not sent."""

UNKNOWN_KIND: Final = MapRow(reason="invalid input type")
"""The outcome of an identity whose kind the endpoint does not take."""

INVALID_PHONES: Final = {
    fault: InvalidPhone(reason=INVALID.reason, code=fault.code) for fault in PhoneFault
}
"""The outcome of each fault of a phone number."""


class MapRecord(msgspec.Struct, Generic[T], gc=False, eq=False):
    """An item of the input and what became of it.

    Don't store a record on its own item. Records are not tracked by the garbage
    collector, which would otherwise run over the whole program every thousand records,
    so the cycle would leak.

    Attributes:
        item: The object from the caller's iterable.
        outcome: The row of the reply as decoded, or the failure.
    """

    item: T
    outcome: Outcome

    @property
    def result(self) -> MappedUID | Unmapped | MapFailure:
        """What became of the item, as the types of the public API."""
        if isinstance(self.outcome, MapFailure):
            return self.outcome
        return self.outcome.result

    def __repr__(self) -> str:
        """Show the outcome only: the item may be DII."""
        return f"MapRecord(outcome={self.outcome!r})"


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: Records handed out.
        mapped: Records with a raw UID.
        opted_out: Records of people who have opted out.
        invalid: Records that are invalid, or unmapped for an unknown reason.
        failed: Records that the operator could not be asked about.
        duplicates: Records answered by the request for an earlier one.
        batches: Batches that are done.
        in_flight: Requests in flight.
        limit: How many requests may be in flight at present.
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
