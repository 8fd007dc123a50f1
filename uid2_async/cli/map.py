"""``uid2 map``, ``refresh``, ``optout-status`` and ``estimate``: jobs on files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
import msgspec
import typer

from uid2_async import bulk
from uid2_async.bulk.database import IfExists, Query, Table
from uid2_async.bulk.estimate import Estimate, estimate_file
from uid2_async.bulk.options import (
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
    StatusOptions,
)
from uid2_async.cli.connection import Connection
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.job import JobDisplay, is_saved, run_job
from uid2_async.cli.options import (
    FORMATS,
    IDENTIFIERS,
    RESUMING,
    RULES,
    SENDING,
    BatchSizeOption,
    ConcurrencyOption,
    DeltaOption,
    FullOption,
    InArgument,
    JobJsonOption,
    KeyOption,
    OptionTable,
    OutArgument,
    OutputOptions,
    StateArgument,
    StateOption,
    identifiers_of,
    in_panels,
    parse_duration,
    with_shared_options,
)
from uid2_async.cli.output import print_error
from uid2_async.errors import InputError

_MAP: OptionTable = OptionTable(
    MapOptions, {**IDENTIFIERS, **FORMATS, **RULES, **SENDING, **RESUMING}
)
_REFRESH: OptionTable = OptionTable(
    RefreshOptions,
    {
        "limit": typer.Option(
            "--limit", min=1, help="The maximum number of identities to ask about."
        ),
        "api": typer.Option(
            "--api", help="v2: find what is due by the rotated salt buckets."
        ),
        **SENDING,
    },
)
_STATUS: OptionTable = OptionTable(
    StatusOptions,
    {
        "column": typer.Option("--column", help="The column with the raw UIDs."),
        "drop": typer.Option(
            "--drop",
            help="Write only the rows that may be shared: those whose STATUS is ok.",
        ),
        "allow_unverifiable": typer.Option(
            "--allow-unverifiable",
            help="With --drop: keep rows whose status cannot be verified.",
        ),
        **FORMATS,
        **RESUMING,
    },
)
_ESTIMATE: OptionTable = OptionTable(MapOptions, {**IDENTIFIERS, **FORMATS})


@in_panels
@with_shared_options
def map_files(  # noqa: PLR0913 - an option each
    context: typer.Context,
    source: InArgument,
    target: OutArgument,
    *,
    mapping: Annotated[dict[str, Any], _MAP],
    state: StateOption = None,
    recheck_after: Annotated[
        str,
        typer.Option(
            "--recheck-after",
            metavar="TIME",
            help="With --state: ask again after this time, so that opt-outs are "
            "noticed.",
        ),
    ] = "7d",
    delta: DeltaOption = None,
    keys: KeyOption = None,
    max_removed: Annotated[
        float,
        typer.Option(
            "--max-removed",
            min=0,
            max=100,
            metavar="PERCENT",
            help="With --full: stop if more than this share of the audience would be "
            "removed.",
        ),
    ] = 5.0,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            metavar="SQL",
            help="Read the rows of this query. IN is the URI of a PostgreSQL database.",
        ),
    ] = None,
    to_table: Annotated[
        str | None,
        typer.Option(
            "--to-table",
            metavar="TABLE",
            help="Write to this table. OUT is the URI of a PostgreSQL database.",
        ),
    ] = None,
    if_exists: Annotated[
        IfExists,
        typer.Option(
            "--if-exists", help="With --to-table: what to do if the table exists."
        ),
    ] = IfExists.FAIL,
    output: OutputOptions,
    connection: Connection,
) -> None:
    """Map files of email addresses or phone numbers to raw UIDs.

    Every row and column is kept, in order; UID, PREV_UID, REFRESH_FROM, UNMAPPED and
    ERROR are appended. UNMAPPED is empty for a mapped row, else OPTOUT, INVALID
    IDENTIFIER or INVALID INPUT TYPE. ERROR says why a row failed, or why a phone is
    invalid (with --country). OUT is readable only by its owner, and appears when it is
    complete.

    If a job is interrupted, run the same command again to resume it.
    """
    display = JobDisplay(
        command="map",
        options=output,
        paths={"IN": source, "OUT": target, "--state": state, "--delta": delta},
        is_saved=partial(is_saved, source, target, state, mapping["job_dir"]),
    )
    options = MapOptions(
        **mapping,
        identifiers=identifiers_of(context),
        keys=tuple(keys or ()),
        max_removed=max_removed / 100,
    )
    recheck = parse_duration(recheck_after)
    job = partial(
        bulk.map_file,
        source if query is None else Query(source, query),
        target if to_table is None else Table(target, to_table, if_exists),
        options=options,
        state=None
        if state is None
        else bulk.MappingState(
            state, recheck_after=recheck, shared_folders=options.shared_folders
        ),
        delta=delta,
    )
    head = (options.column or "INPUT", options)
    raise typer.Exit(run_job(job, connection, display, head=head))


@in_panels
@with_shared_options
def refresh_people(
    state: StateArgument,
    *,
    delta: DeltaOption = None,
    asking: Annotated[dict[str, Any], _REFRESH],
    output: OutputOptions,
    connection: Connection,
) -> None:
    """Ask again about the due identities of a state.

    Mapped identities are due at their REFRESH_FROM, opted-out ones after 30 days and
    invalid ones after 180 days. If a refresh is interrupted, run it again to resume.
    """
    display = JobDisplay(
        command="refresh",
        options=output,
        paths={"STATE": state, "--delta": delta},
        is_saved=lambda: True,
    )
    options = RefreshOptions(**asking)
    job = partial(bulk.refresh_state, Path(state), options=options, delta=delta)
    raise typer.Exit(run_job(job, connection, display))


@in_panels
@with_shared_options
def check_optouts(  # noqa: PLR0913 - an option each
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="A state (without OUT), or a file of raw UIDs."
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(metavar="[OUT]", help="The file to write; - is stdout."),
    ] = None,
    *,
    checking: Annotated[dict[str, Any], _STATUS],
    by_status: Annotated[
        bool,
        typer.Option(
            "--by-status",
            help="With a state: ask by raw UID instead of mapping again. v4 raw UIDs "
            "of production cannot be checked this way.",
        ),
    ] = False,
    unchecked_for: Annotated[
        str,
        typer.Option(
            "--unchecked-for",
            metavar="TIME",
            help="With a state: ask about identities that were not checked for this "
            "time.",
        ),
    ] = "1d",
    optout_concurrency: Annotated[
        int,
        typer.Option(
            "--optout-concurrency",
            min=1,
            help="Requests in flight when asking by raw UID. Public operators allow 1.",
        ),
    ] = 1,
    delta: DeltaOption = None,
    sending: Annotated[dict[str, Any], OptionTable(JobOptions, SENDING)],
    output: OutputOptions,
    connection: Connection,
) -> None:
    """Check who has opted out.

    For a state, maps everybody again. For a file of raw UIDs that you want to share,
    appends STATUS: ok, opted_out, unverifiable (v4 raw UIDs of integ and prod, which
    this endpoint does not find), invalid or failed. With --drop, exits with 3 if
    unverifiable raw UIDs were left out.
    """
    out = target or "-"
    state = source if target is None else None
    display = JobDisplay(
        command="optout-status",
        options=output,
        paths={"IN": source, "OUT": target, "--delta": delta},
        is_saved=partial(is_saved, source, out, state, checking["job_dir"]),
    )
    drop, keeps_others = checking["drop"], checking["allow_unverifiable"]
    if target is None and (drop or keeps_others):
        raise InputError("--drop writes a file.", hint="Name OUT.")
    unchecked = parse_duration(unchecked_for)
    one_by_one = {**sending, "concurrency": optout_concurrency}
    if target is not None:
        status = StatusOptions(**checking, **one_by_one)
        job = partial(bulk.check_file, source, target, options=status)
    elif by_status:
        options = JobOptions(**one_by_one)
        job = partial(bulk.sweep_by_status, Path(source), options=options, delta=delta)
    else:
        again = RefreshOptions(unchecked_for=unchecked, **sending)
        job = partial(bulk.refresh_state, Path(source), options=again, delta=delta)

    def left_out(summary: JobSummary) -> ExitCode:
        if target is None or not drop or keeps_others or not summary.other:
            return ExitCode.OK
        print_error(
            f"{summary.other:,} raw UIDs were left out because their status cannot be "
            "verified.",
            "Map their identities again, or pass --allow-unverifiable.",
        )
        return ExitCode.INCOMPLETE

    raise typer.Exit(run_job(job, connection, display, check=left_out))


@in_panels
@with_shared_options
def estimate_files(  # noqa: PLR0913 - an option each
    context: typer.Context,
    source: InArgument,
    *,
    mapping: Annotated[dict[str, Any], _ESTIMATE],
    batch_size: BatchSizeOption = None,
    concurrency: ConcurrencyOption = 20,
    latency: Annotated[
        float,
        typer.Option(
            "--latency", min=0, help="Seconds that the operator takes per request."
        ),
    ] = 0.5,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes that share the work.")
    ] = 1,
    state: StateOption = None,
    delta: DeltaOption = None,
    keys: KeyOption = None,
    full: FullOption = False,
    as_json: JobJsonOption = False,
) -> None:
    """Estimate the requests, traffic and time of 'uid2 map'.

    Takes the options of 'uid2 map', reads the file once, and sends nothing. Also
    estimates the size of a state and its daily run.
    """
    found = estimate_file(
        source,
        options=MapOptions(**mapping, identifiers=identifiers_of(context)),
        batch_size=batch_size or 5_000,
        concurrency=concurrency,
        latency=latency,
        processes=processes,
        with_state=bool(state or delta or keys or full),
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(attrs.asdict(found)).decode() + "\n")
        return
    for name, value in _facts(found, latency).items():
        sys.stdout.write(f"{name}: {value}\n")


def _facts(found: Estimate, latency: float) -> dict[str, str]:
    """Format an estimate for people."""
    about = "" if found.is_exact else "about "
    return {
        "rows": f"{found.rows:,}",
        "identifiers": f"{found.identifiers:,}",
        "different identities": f"{about}{found.unique:,}",
        "invalid": f"{found.invalid:,}",
        "rows without any": f"{found.empty:,}",
        **{warning: f"{count:,}" for warning, count in found.input_warnings.items()},
        "requests": f"{about}{found.batches:,}",
        "minutes": f"{found.seconds / 60:.1f}, with {latency:g} s a request",
        "network": f"{_size(found.sent_bytes)} out, {_size(found.received_bytes)} in",
        "a state of them": (
            f"{_size(found.state_bytes)}, "
            f"{found.first_load_seconds / 60:.1f} minutes for the first load"
        ),
        "each day after that": (
            f"{found.daily_unique:,} due in {found.daily_batches:,} requests, "
            f"{found.daily_seconds / 60:.1f} minutes; once a week everybody"
        ),
    }


def _size(count: int) -> str:
    """Format a number of bytes with a decimal unit."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
