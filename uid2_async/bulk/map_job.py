"""map_file: from files of identifiers to files with raw UIDs, resumable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.blocks import entered, opened_for
from uid2_async.bulk.delta_task import DeltaTask
from uid2_async.bulk.endpoints import MAP_V2, MAP_V3
from uid2_async.bulk.files import (
    IdentifierColumns,
    Layout,
    expand,
    find_identifiers,
    format_of,
)
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.job_files import JobFiles, JobPlan, open_job
from uid2_async.bulk.job_summary import JobSummary
from uid2_async.bulk.map_options import Api, MapOptions, Names, RefreshFrom
from uid2_async.bulk.map_rows import MapRows
from uid2_async.bulk.national_phones import NationalPhones
from uid2_async.bulk.outcome_columns import OutcomeColumns
from uid2_async.bulk.refresh import begin_run
from uid2_async.bulk.run_options import RunOptions
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_ledger import StateLedger
from uid2_async.bulk.write_files import write_files
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError

__all__ = ["map_file"]


async def map_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    client: UID2Client,
    options: MapOptions | None = None,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
    run: RunOptions | None = None,
) -> JobSummary:
    """Map a file, or the files of a folder; what ``uid2 map`` runs.

    A job that was interrupted goes on where it was when it is called again with the
    same arguments; docs/bulk.md says how.

    Args:
        source: A file, a folder, a pattern such as ``export/*.parquet``, or ``-``.
        target: The file to write, or the folder, or ``-``.
        client: Who maps.
        options: How the files are read, asked about and written.
        state: What remembers answers; one that is not open is opened for the job.
        delta: Where to write what has changed since the last delta; needs *state*.
        run: How the job is run.

    Returns:
        What was done.

    Raises:
        InputError: If an input or an output is not as it must be, or a row cannot be
            read.
        JobError: If the job was begun with something else, works elsewhere, or a disk
            is full; what is done is kept.
        ConfigError: If an option is wrong.
        AuthError: If the API key or secret is not accepted.
        StalledError: If no batch succeeded for the job's stall_timeout.
    """
    options, run = options or MapOptions(), run or RunOptions()
    if delta is not None and state is None:
        raise ConfigError(
            "A delta is what has changed in a state.", hint="Give a state (--state)."
        )
    if options.full and delta is None:
        raise ConfigError(
            "Who is missing from a full input is told by the delta.",
            hint="Give a delta (--delta).",
        )
    work = _MapWork(options, run, client)
    plan = await in_thread(
        partial(work.plan, os.fspath(source), os.fspath(target), delta)
    )
    async with entered(open_job(plan, client, run)) as files:
        if state is None:
            summary = await work.write(files, None, None)
        else:
            opened = (
                state if isinstance(state, MappingState) else MappingState(Path(state))
            )
            summary = await work.write_with_state(files, opened, plan.delta)
        if summary.complete and files.folder is not None:
            await in_thread(files.folder.discard)
    return summary


class _MapWork:
    """One call of :func:`map_file`."""

    def __init__(
        self, options: MapOptions, run: RunOptions, client: UID2Client
    ) -> None:
        self._options = options
        self._run = run
        self._client = client
        self._phones: NationalPhones | None = None
        kinds = list(options.identifiers) or [options.type or "identifier"]
        self._columns = OutcomeColumns(
            kinds,
            rule=options.optout_rule,
            snake_case=options.names is Names.SNAKE,
            buckets=options.api is Api.V2,
        )

    def plan(
        self, source: str, target: str, delta: str | os.PathLike[str] | None
    ) -> JobPlan:
        """Say what is to be done with which files."""
        options = self._options
        self._phones = options.national_phones()
        iso = options.refresh_from
        layout = Layout(
            format=format_of(source, target, options.format),
            added=self._columns.contents,
            delimiter=options.delimiter,
            encoding=options.encoding,
            iso=None if iso is None else iso is RefreshFrom.ISO,
            spreadsheet_safe=options.spreadsheet_safe,
        )
        return JobPlan(
            pairs=expand(source, target),
            target=target,
            delta=None if delta is None else Path(delta),
            layout=layout,
            find=self._find,
            keys=options.keys if delta is not None else (),
            terms={**options.terms(), "delta": delta and os.fspath(delta)},
        )

    def _find(self, header: Sequence[str]) -> IdentifierColumns:
        """Find the columns of the identifiers."""
        options = self._options
        return find_identifiers(
            header,
            column=options.column,
            kind=options.type,
            several=options.identifiers,
            phones=self._phones,
        )

    async def write_with_state(
        self, files: JobFiles, state: MappingState, delta: Path | None
    ) -> JobSummary:
        """Write all files, with what *state* knows, and then the delta."""
        async with opened_for(state):
            job = None if files.folder is None else files.folder.manifest.job
            begun = await begin_run(state, self._client, self._run, job)
            segment = self._options.segment if self._options.full else None
            ledger = StateLedger(state, begun, segment=segment)
            task = None
            if delta is not None:
                task = DeltaTask(state, begun, delta, files, keys=self._options.keys)
            summary = await self.write(files, ledger, task)
            if not summary.complete:
                return summary
            if task is None:
                await state.finish(begun, told_until=None)
                return summary
            if segment is not None:
                most = self._options.max_removed
                await state.remove_absent(begun, segment, most=most)
            return attrs.evolve(summary, changes=await task.finish())

    async def write(
        self, files: JobFiles, ledger: StateLedger | None, delta: DeltaTask | None
    ) -> JobSummary:
        """Write all files."""
        keys = None if delta is None else self._options.keys
        summary = await write_files(
            files,
            MapRows(self._columns, explode=self._options.explode, keys=keys),
            client=self._client,
            run=self._run,
            endpoint=MAP_V2 if self._options.api is Api.V2 else MAP_V3,
            ledger=ledger,
            delta=None if delta is None else await in_thread(delta.open_part),
        )
        if ledger is None:
            return summary
        return attrs.evolve(summary, from_state=ledger.answered)


strip_tracebacks(globals())
