"""check_file: may these raw UIDs be shared? What ``uid2 optout-status IN OUT`` runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.blocks import entered
from uid2_async.bulk.endpoints import OPTOUT_STATUS, RAW_UID
from uid2_async.bulk.files import (
    IdentifierColumns,
    Layout,
    expand,
    find_identifiers,
    format_of,
)
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.job_files import JobPlan, open_job
from uid2_async.bulk.job_summary import JobSummary
from uid2_async.bulk.run_options import RunOptions
from uid2_async.bulk.status_columns import StatusColumns
from uid2_async.bulk.write_files import write_files
from uid2_async.client import UID2Client

__all__ = ["StatusOptions", "check_file"]


@attrs.frozen(kw_only=True)
class StatusOptions:
    """What decides about the output of :func:`check_file`.

    Attributes:
        column: The column of the raw UIDs.
        drop: Whether only those rows are written that may be shared.
        allow_unverifiable: Whether those may whose status nobody can tell.
        format: ``csv``, ``jsonl``, ``parquet`` or ``arrow``; by default the name of the
            file tells.
        delimiter: What separates the fields of a CSV file.
        encoding: The encoding of a CSV file.
    """

    column: str = "UID"
    drop: bool = False
    allow_unverifiable: bool = False
    format: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8"


async def check_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    client: UID2Client,
    options: StatusOptions | None = None,
    run: RunOptions | None = None,
) -> JobSummary:
    """Say of each raw UID of a file whether its person has opted out.

    The column STATUS is appended: ``ok``, ``opted_out``, ``unverifiable`` (the operator
    does not find v4 raw UIDs of its environments *integ* and *prod*), ``invalid``, or
    ``failed`` where it could not be asked about. As the public operators want it, one
    request is under way at a time, unless *run* says otherwise.

    Args:
        source: A file, a folder, a pattern, or ``-``.
        target: The file to write, or the folder, or ``-``.
        client: Who asks.
        options: What is written.
        run: How the job is run.

    Returns:
        What was done; *mapped* counts those that are ok, *other* the unverifiable.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options, run = options or StatusOptions(), run or RunOptions(concurrency=1)
    plan = partial(_plan, os.fspath(source), os.fspath(target), options)
    async with entered(open_job(await in_thread(plan), client, run)) as files:
        rows = StatusColumns(
            drop=options.drop, allow_unverifiable=options.allow_unverifiable
        )
        summary = await write_files(
            files, rows, client=client, run=run, endpoint=OPTOUT_STATUS
        )
        if summary.complete and files.folder is not None:
            await in_thread(files.folder.discard)
    return summary


def _plan(source: str, target: str, options: StatusOptions) -> JobPlan:
    """Say what is to be done with which files."""

    def find(header: Sequence[str]) -> IdentifierColumns:
        return find_identifiers(header, column=options.column, kind=RAW_UID, several={})

    return JobPlan(
        pairs=expand(source, target),
        target=target,
        delta=None,
        layout=Layout(
            format=format_of(source, target, options.format),
            added=StatusColumns.contents,
            delimiter=options.delimiter,
            encoding=options.encoding,
        ),
        find=find,
        keys=(),
        terms=attrs.asdict(options),
    )


strip_tracebacks(globals())
