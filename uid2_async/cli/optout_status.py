"""``uid2 optout-status``: who has opted out, in a state or in a file to be shared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from uid2_async.cli.durations import parse_duration
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import print_error
from uid2_async.cli.job_display import JobDisplay
from uid2_async.cli.job_options import (
    ConnectionOptions,
    DeltaOption,
    OutputOptions,
    ReplaceOptions,
    ResumeOptions,
    SendOptions,
    TextOptions,
    settings_of,
)
from uid2_async.cli.run_job import is_saved, run_job
from uid2_async.cli.shared_options import with_shared_options
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.bulk.options import JobSummary
    from uid2_async.cli.run_job import JobContext

__all__ = ["check_optouts"]


@with_shared_options
def check_optouts(  # noqa: PLR0913 - an option each
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="A state (then without OUT), or a file of raw UIDs."
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(metavar="[OUT]", help="The file to write; - is stdout."),
    ] = None,
    *,
    column: Annotated[
        str, typer.Option("--column", help="The column with the raw UIDs.")
    ] = "UID",
    drop: Annotated[
        bool,
        typer.Option(
            "--drop", help="Write only the rows that may be shared: whose STATUS is ok."
        ),
    ] = False,
    allow_unverifiable: Annotated[
        bool,
        typer.Option(
            "--allow-unverifiable",
            help="With --drop: keep those whose status nobody can tell.",
        ),
    ] = False,
    by_status: Annotated[
        bool,
        typer.Option(
            "--by-status",
            help="A state: ask by raw UID instead of mapping again; v4 raw UIDs of "
            "production cannot be checked so.",
        ),
    ] = False,
    unchecked_for: Annotated[
        str,
        typer.Option(
            "--unchecked-for",
            metavar="TIME",
            help="A state: ask about whoever was not checked for so long.",
        ),
    ] = "1d",
    optout_concurrency: Annotated[
        int,
        typer.Option(
            "--optout-concurrency",
            min=1,
            help="Requests in flight when asking by raw UID: public operators allow 1.",
        ),
    ] = 1,
    delta: DeltaOption = None,
    text: TextOptions,
    sending: SendOptions,
    replacing: ReplaceOptions,
    resuming: ResumeOptions,
    output: OutputOptions,
    connection: ConnectionOptions,
) -> None:
    """Check who has opted out.

    Of a state, by mapping everybody again. Of a file of raw UIDs, before it is shared:
    STATUS is appended, which is ok, opted_out, unverifiable (v4 raw UIDs of integ and
    prod, which the operator does not find here), invalid or failed. With --drop it
    exits with 3 if something unverifiable was left out.
    """
    display = JobDisplay(
        command="optout-status",
        options=output,
        to_stdout="-" in (target, delta),
        paths={"IN": source, "OUT": target, "--delta": delta},
        is_saved=partial(
            is_saved,
            source,
            target or "-",
            source if target is None else None,
            resuming.job_dir,
        ),
    )
    if target is None and (drop or allow_unverifiable):
        raise InputError("--drop writes a file.", hint="Name OUT.")
    unchecked = parse_duration(unchecked_for)
    if by_status or target is not None:
        sending = attrs.evolve(sending, concurrency=optout_concurrency)

    async def sweep(job: JobContext) -> JobSummary:
        from uid2_async.bulk.jobs import (  # noqa: PLC0415 - imports aiohttp
            refresh_state,
            sweep_by_status,
        )
        from uid2_async.bulk.options import (  # noqa: PLC0415 - as above
            JobOptions,
            RefreshOptions,
        )

        settings = settings_of(sending, replacing)
        if by_status:
            return await sweep_by_status(
                Path(source),
                options=JobOptions(**settings),
                delta=delta,
                **job.arguments(),
            )
        return await refresh_state(
            Path(source),
            options=RefreshOptions(unchecked_for=unchecked, **settings),
            delta=delta,
            **job.arguments(),
        )

    async def check(job: JobContext) -> JobSummary:
        from uid2_async.bulk.jobs import check_file  # noqa: PLC0415 - as above
        from uid2_async.bulk.options import StatusOptions  # noqa: PLC0415 - as above

        return await check_file(
            source,
            target or "-",
            options=StatusOptions(
                column=column,
                drop=drop,
                allow_unverifiable=allow_unverifiable,
                **text.settings(),
                **settings_of(sending, replacing, resuming),
            ),
            **job.arguments(),
        )

    def left_out(summary: JobSummary) -> ExitCode:
        if target is None or not drop or allow_unverifiable or not summary.other:
            return ExitCode.OK
        print_error(
            f"{summary.other:,} raw UIDs were left out since nobody can tell their "
            "status.",
            "Map their identities again, or pass --allow-unverifiable.",
        )
        return ExitCode.INCOMPLETE

    work = sweep if target is None else check
    code = run_job(work, connection, display, check=left_out)
    raise typer.Exit(code)
