"""What a job on files did, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.outcome_columns import Ending
from uid2_async.bulk.records import Progress

__all__ = ["FileProgress", "JobSummary"]


@attrs.frozen(kw_only=True)
class FileProgress:
    """How far a job on files is.

    Attributes:
        rows: How many rows have been written, those of earlier lives included.
        bytes_read: How many bytes of the inputs they came from.
        total_bytes: How many bytes the inputs have; None where that is not known.
        endings: How many rows ended how: mapped, opted_out, invalid, empty, other,
            failed.
        job: Batches, limit and the like.
    """

    rows: int
    bytes_read: int
    total_bytes: int | None
    endings: Mapping[str, int]
    job: Progress


@attrs.frozen(kw_only=True)
class JobSummary:
    """What a job on files did.

    Attributes:
        rows: How many rows there are in the output.
        mapped: How many of them have a raw UID.
        opted_out: How many people have opted out.
        invalid: How many identifiers, or types of them, were invalid.
        empty: How many rows named nobody.
        other: How many the operator left unmapped for a reason that is not known.
        failed: How many could not be asked about; they have an ERROR.
        duplicates: How many identifiers were answered by the request for an earlier
            one, in this life of the job.
        from_state: How many identities the state answered.
        requests: How many were sent, repeated ones too, in this life of the job.
        throttled: How often the operator asked to slow down.
        resumed_rows: How many rows an earlier life of the job had finished.
        changes: How many changes the delta tells; None where there is no delta.
        seconds: How long it took, in this life of the job.
        outputs: The files that were written.
        complete: Whether all is done; False after an orderly interruption.
    """

    rows: int = 0
    mapped: int = 0
    opted_out: int = 0
    invalid: int = 0
    empty: int = 0
    other: int = 0
    failed: int = 0
    duplicates: int = 0
    from_state: int = 0
    requests: int = 0
    throttled: int = 0
    resumed_rows: int = 0
    changes: int | None = None
    seconds: float = 0.0
    outputs: tuple[Path, ...] = ()
    complete: bool = True

    @classmethod
    def of(cls, endings: Mapping[str, int], **more: Any) -> JobSummary:
        """Make a summary of how many rows ended how, and of *more*."""
        counted: dict[str, Any] = {
            ending.value: endings.get(ending, 0) for ending in Ending
        }
        return cls(**counted, **more)


strip_tracebacks(globals())
