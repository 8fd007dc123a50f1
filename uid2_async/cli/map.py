"""``uid2 map``, ``refresh``, ``optout-status`` and ``estimate``: jobs on files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import msgspec
import typer

from uid2_async import bulk
from uid2_async.bulk.database import IfExists, Query, Table
from uid2_async.bulk.estimate import Estimate, estimate_file
from uid2_async.bulk.options import (
    MAX_CONCURRENCY,
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
    StatusOptions,
)
from uid2_async.cli.connection import Connection
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.job import JobDisplay, run_job
from uid2_async.cli.options import (
    FORMATS,
    IDENTIFIERS,
    RESUMING,
    RULES,
    SENDING,
    ConcurrencyOption,
    DeltaOption,
    InArgument,
    JobJsonOption,
    KeyOption,
    Kind,
    OutArgument,
    OutputOptions,
    StateArgument,
    StateOption,
    database_option,
    how_option,
    parse_duration,
    what_option,
    with_shared_options,
)
from uid2_async.cli.output import print_error
from uid2_async.cli.values import find_state
from uid2_async.errors import InputError

_DUE: Final[Mapping[str, Any]] = {
    "limit": typer.Option(
        "--limit", min=1, help="The maximum number of identities to ask about."
    ),
    "api": how_option(
        "--api", help="v2: find what is due by the rotated salt buckets."
    ),
}
_SHARING: Final[Mapping[str, Any]] = {
    "column": what_option("--column", help="The column with the raw UIDs."),
    "drop": typer.Option(
        "--drop",
        help="Write only the rows that may be shared: those whose STATUS is ok.",
    ),
    "allow_unverifiable": typer.Option(
        "--allow-unverifiable",
        help="With --drop: keep rows whose status cannot be verified.",
    ),
}
_ESTIMATED: Final[Mapping[str, Any]] = {
    **{name: SENDING[name] for name in ("batch_size", "concurrency")},
    "full": RULES["full"],
}


def _map_options(
    context: typer.Context, given: dict[str, Any], **more: Any
) -> MapOptions:
    """Return the options of a job, with the columns of identifiers by type."""
    columns = {f"{kind}_column": kind.value for kind in Kind}
    given = {name: value for name, value in given.items() if name not in columns}
    # The parser fills params in the order of the command line, which is a preference.
    named = {
        columns[name]: column
        for name, column in context.params.items()
        if name in columns and column is not None
    }
    return MapOptions(**given, identifiers=named, **more)


@with_shared_options(
    *(MapOptions, IDENTIFIERS, FORMATS, RULES, SENDING, RESUMING), in_panels=True
)
def map_files(  # noqa: PLR0913 - an option each
    context: typer.Context,
    source: InArgument,
    target: OutArgument,
    *,
    state: StateOption = None,
    recheck_after: Annotated[
        str,
        how_option(
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
        how_option(
            "--max-removed",
            min=0,
            max=100,
            metavar="PERCENT",
            help="With --full: fail before anything is sent if more than this share of "
            "the audience would be removed.",
        ),
    ] = 5.0,
    query: Annotated[
        str | None,
        database_option(
            "--query",
            metavar="SQL",
            help="Read the rows of this query. IN is the URI of a PostgreSQL database.",
        ),
    ] = None,
    to_table: Annotated[
        str | None,
        database_option(
            "--to-table",
            metavar="TABLE",
            help="Write to this table. OUT is the URI of a PostgreSQL database.",
        ),
    ] = None,
    if_exists: Annotated[
        IfExists,
        database_option(
            "--if-exists", help="With --to-table: what to do if the table exists."
        ),
    ] = IfExists.FAIL,
    output: OutputOptions,
    connection: Connection,
    **mapping: Any,
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
        job_dir=mapping["job_dir"],
    )
    options = _map_options(
        context, mapping, keys=tuple(keys or ()), max_removed=max_removed / 100
    )
    recheck = parse_duration(recheck_after, "--recheck-after")
    job = partial(
        bulk.map_file,
        source if query is None else Query(source, query),
        target if to_table is None else Table(target, to_table, if_exists),
        options=options,
        state=None
        if state is None
        else bulk.MappingState(
            Path(state), recheck_after=recheck, shared_folders=options.shared_folders
        ),
        delta=delta,
    )
    head = (
        options.column or next(iter(options.identifiers.values()), "INPUT"),
        options,
    )
    raise typer.Exit(run_job(job, connection, display, head=head))


@with_shared_options(RefreshOptions, _DUE, SENDING, in_panels=True)
def refresh_people(
    state: StateArgument,
    *,
    delta: DeltaOption = None,
    output: OutputOptions,
    connection: Connection,
    **asking: Any,
) -> None:
    """Ask again about the due identities of a state.

    Mapped identities are due at their REFRESH_FROM, opted-out ones after 30 days and
    invalid ones after 180 days. If a refresh is interrupted, run it again to resume.
    """
    display = JobDisplay(
        command="refresh",
        options=output,
        paths={"STATE": state, "--delta": delta},
    )
    options = RefreshOptions(**asking)
    job = partial(bulk.refresh_state, find_state(state), options=options, delta=delta)
    raise typer.Exit(run_job(job, connection, display))


def _refuse_unused(context: typer.Context, names: Collection[str], what: str) -> None:
    """Reject options that were given and would have no effect on *what*."""
    for name in context.params:
        origin = context.get_parameter_source(name)
        if name in names and origin is not None and origin.name == "COMMANDLINE":
            raise InputError(
                f"--{name.replace('_', '-')} has no effect on {what}.",
                hint="A state (IN) and a file (IN OUT) have different options: see "
                "--help.",
            )


@with_shared_options(
    *(StatusOptions, _SHARING, FORMATS, SENDING, RESUMING), in_panels=True
)
def check_optouts(  # noqa: PLR0913 - an option each
    context: typer.Context,
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
    by_status: Annotated[
        bool,
        typer.Option(
            "--by-status",
            help="With a state: ask by raw UID about everybody instead of mapping "
            "again. v4 raw UIDs of production cannot be checked this way.",
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
    concurrency: ConcurrencyOption = 20,
    optout_concurrency: Annotated[
        int,
        typer.Option(
            "--optout-concurrency",
            min=1,
            max=MAX_CONCURRENCY,
            help="Requests in flight when asking by raw UID. Public operators allow 1.",
        ),
    ] = 1,
    delta: DeltaOption = None,
    output: OutputOptions,
    connection: Connection,
    **checking: Any,
) -> None:
    """Check who has opted out.

    For a state, maps everybody again. For a file of raw UIDs that you want to share,
    appends STATUS: ok, opted_out, unverifiable (v4 raw UIDs of integ and prod, which
    this endpoint does not find), invalid or failed. With --drop, exits with 3 if
    unverifiable raw UIDs were left out.
    """
    display = JobDisplay(
        command="optout-status",
        options=output,
        paths={"IN": source, "OUT": target, "--delta": delta},
        job_dir=checking["job_dir"],
    )
    drop, keeps_others = checking["drop"], checking["allow_unverifiable"]
    of_files = checking.keys() - SENDING.keys()
    if target is not None:
        what, unused = "a file", {"by_status", "unchecked_for", "concurrency", "delta"}
    elif by_status:
        what, unused = "--by-status", {"unchecked_for", "concurrency", *of_files}
    else:
        what, unused = "a state", {"optout_concurrency", *of_files}
    _refuse_unused(context, unused, what)
    unchecked = parse_duration(unchecked_for, "--unchecked-for")
    sending = {name: checking[name] for name in SENDING if name in checking}
    if target is not None:
        status = StatusOptions(**checking, concurrency=optout_concurrency)
        job = partial(bulk.check_file, source, target, options=status)
    else:
        state = find_state(source, "Check the path. A file of raw UIDs needs OUT.")
        if by_status:
            options = JobOptions(**sending, concurrency=optout_concurrency)
            job = partial(bulk.sweep_by_status, state, options=options, delta=delta)
        else:
            again = RefreshOptions(
                **sending, concurrency=concurrency, unchecked_for=unchecked
            )
            job = partial(bulk.refresh_state, state, options=again, delta=delta)

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


@with_shared_options(*(MapOptions, IDENTIFIERS, FORMATS, _ESTIMATED), in_panels=True)
def estimate_files(
    context: typer.Context,
    source: InArgument,
    *,
    latency: Annotated[
        float,
        typer.Option(
            "--latency",
            min=0,
            max=3_600,
            help="Seconds that the operator takes per request.",
        ),
    ] = 0.5,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes that share the work.")
    ] = 1,
    state: StateOption = None,
    delta: DeltaOption = None,
    keys: KeyOption = None,
    as_json: JobJsonOption = False,
    **mapping: Any,
) -> None:
    """Estimate the requests, traffic and time of 'uid2 map'.

    Takes the options of 'uid2 map', reads the file once, and sends nothing. Also
    estimates the size of a state and its daily run.
    """
    options = _map_options(context, mapping)
    found = estimate_file(
        source,
        options=options,
        batch_size=options.batch_size or 5_000,
        concurrency=options.concurrency,
        latency=latency,
        processes=processes,
        with_state=bool(state or delta or keys or options.full),
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
