"""``uid2 map``: raw UIDs for files of identifiers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.bulk.database import IfExists, Query, Table
from uid2_async.bulk.options import Api, MapOptions, Names, RefreshFrom
from uid2_async.bulk.outcomes import OptOutRule
from uid2_async.cli.durations import parse_duration
from uid2_async.cli.job_display import JobDisplay
from uid2_async.cli.job_options import (
    ConnectionOptions,
    DeltaOption,
    FullOption,
    IdentifierOptions,
    InArgument,
    KeyOption,
    OutArgument,
    OutputOptions,
    ReplaceOptions,
    ResumeOptions,
    SendOptions,
    StateOption,
    TextOptions,
    settings_of,
)
from uid2_async.cli.run_job import is_saved, run_job
from uid2_async.cli.shared_options import with_shared_options

if TYPE_CHECKING:
    from uid2_async.bulk.options import JobSummary
    from uid2_async.cli.run_job import JobContext

__all__ = ["map_files"]


@with_shared_options
def map_files(  # noqa: PLR0913 - an option each
    context: typer.Context,
    source: InArgument,
    target: OutArgument,
    *,
    identifiers: IdentifierOptions,
    text: TextOptions,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option(
            "--spreadsheet-safe",
            help="Put ' before CSV fields that a spreadsheet would run as formulas; "
            "this changes data.",
        ),
    ] = False,
    names: Annotated[
        Names, typer.Option("--names", help="How the added columns are called.")
    ] = Names.UPPER,
    refresh_from: Annotated[
        RefreshFrom | None,
        typer.Option(
            "--refresh-from",
            help="How REFRESH_FROM is written; by default as seconds since 1970, in "
            "Parquet and Arrow as a timestamp.",
        ),
    ] = None,
    optout_rule: Annotated[
        OptOutRule,
        typer.Option(
            "--optout-rule",
            help="With several identifiers a row: is the person opted out if any of "
            "them is, or does each count for itself?",
        ),
    ] = OptOutRule.ANY,
    explode: Annotated[
        bool, typer.Option("--explode", help="Write a row for each identifier.")
    ] = False,
    api: Annotated[
        Api,
        typer.Option("--api", help="v2: for operators that live by salt buckets."),
    ] = Api.V3,
    state: StateOption = None,
    recheck_after: Annotated[
        str,
        typer.Option(
            "--recheck-after",
            metavar="TIME",
            help="With --state: ask again after that long, so that an opt-out is seen.",
        ),
    ] = "7d",
    delta: DeltaOption = None,
    keys: KeyOption = None,
    full: FullOption = False,
    segment: Annotated[
        str, typer.Option("--segment", help="With --full: the name of that audience.")
    ] = "default",
    max_removed: Annotated[
        float,
        typer.Option(
            "--max-removed",
            min=0,
            max=100,
            metavar="PERCENT",
            help="With --full: stop if more of the audience would be removed.",
        ),
    ] = 5.0,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            metavar="SQL",
            help="IN is the URI of a PostgreSQL database, and this query its rows.",
        ),
    ] = None,
    to_table: Annotated[
        str | None,
        typer.Option(
            "--to-table",
            metavar="TABLE",
            help="OUT is the URI of a PostgreSQL database, and this table is written.",
        ),
    ] = None,
    if_exists: Annotated[
        IfExists,
        typer.Option("--if-exists", help="With --to-table: what if it exists."),
    ] = IfExists.FAIL,
    sending: SendOptions,
    replacing: ReplaceOptions,
    resuming: ResumeOptions,
    output: OutputOptions,
    connection: ConnectionOptions,
) -> None:
    """Map files of e-mails, phones or hashes of them to raw UIDs.

    Every row and column is kept, in order; UID, PREV_UID, REFRESH_FROM, UNMAPPED and
    ERROR are appended. UNMAPPED is empty for a mapped row, else OPTOUT, INVALID
    IDENTIFIER or INVALID INPUT TYPE; ERROR says what happened to a row that could not
    be asked about, and with --country why a phone is invalid. OUT is readable by its
    owner alone, and appears when it is whole.

    An interrupted job goes on where it was when the same command is given again.
    """
    display = JobDisplay(
        command="map",
        options=output,
        to_stdout="-" in (target, delta),
        paths={"IN": source, "OUT": target, "--state": state, "--delta": delta},
        is_saved=partial(is_saved, source, target, state, resuming.job_dir),
    )
    options = MapOptions(
        **identifiers.settings(context),
        **text.settings(),
        spreadsheet_safe=spreadsheet_safe,
        names=names,
        refresh_from=refresh_from,
        optout_rule=optout_rule,
        explode=explode,
        api=api,
        keys=tuple(keys or ()),
        full=full,
        segment=segment,
        max_removed=max_removed / 100,
        **settings_of(sending, replacing, resuming),
    )
    recheck = parse_duration(recheck_after)

    async def work(job: JobContext) -> JobSummary:
        from uid2_async.bulk.jobs import map_file  # noqa: PLC0415 - imports aiohttp
        from uid2_async.bulk.state import MappingState  # noqa: PLC0415 - as above

        opened = None
        if state is not None:
            opened = MappingState(
                state,
                recheck_after=recheck,
                shared_folders=replacing.shared_folders,
            )
        return await map_file(
            source if query is None else Query(source, query),
            target if to_table is None else Table(target, to_table, if_exists),
            options=options,
            state=opened,
            delta=delta,
            **job.arguments(),
        )

    head = (identifiers.column or "INPUT", options)
    code = run_job(work, connection, display, head=head)
    raise typer.Exit(code)
