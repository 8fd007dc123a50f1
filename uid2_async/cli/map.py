"""``uid2 map``: raw UIDs for files of identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.bulk.options import Api, MapOptions, Names, RefreshFrom
from uid2_async.bulk.outcomes import OptOutRule
from uid2_async.cli.durations import parse_duration
from uid2_async.cli.job_options import (
    DeltaOption,
    IdentifierOptions,
    InArgument,
    OutArgument,
    ReplaceOptions,
    ResumeOptions,
    SendOptions,
    TalkOptions,
    TextOptions,
    settings_of,
)
from uid2_async.cli.run_job import run_job
from uid2_async.cli.shared_options import with_shared_options

if TYPE_CHECKING:
    from uid2_async.bulk.options import JobSummary
    from uid2_async.cli.run_job import Running

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
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help="Remember answers in FILE, and ask only about what is new or due.",
        ),
    ] = None,
    recheck_after: Annotated[
        str,
        typer.Option(
            "--recheck-after",
            metavar="TIME",
            help="With --state: ask again after that long, so that an opt-out is seen.",
        ),
    ] = "7d",
    delta: DeltaOption = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="COL",
            help="A column of the input that the delta repeats; may be given again.",
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="IN is the whole audience: who is missing from it is REMOVED in the "
            "delta.",
        ),
    ] = False,
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
    sending: SendOptions,
    replacing: ReplaceOptions,
    resuming: ResumeOptions,
    talk: TalkOptions,
) -> None:
    """Map files of e-mails, phones or hashes of them to raw UIDs.

    Every row and column is kept, in order; UID, PREV_UID, REFRESH_FROM, UNMAPPED and
    ERROR are appended. UNMAPPED is empty for a mapped row, else OPTOUT, INVALID
    IDENTIFIER or INVALID INPUT TYPE; ERROR says what happened to a row that could not
    be asked about, and with --country why a phone is invalid. OUT is readable by its
    owner alone, and appears when it is whole.

    An interrupted job goes on where it was when the same command is given again.
    """
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

    async def job(running: Running) -> JobSummary:
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
            source,
            target,
            options=options,
            state=opened,
            delta=delta,
            **running.arguments(),
        )

    head = (identifiers.column or "INPUT", options)
    code = run_job(job, talk, to_stdout=target == "-", head=head)
    raise typer.Exit(code)
