"""``uid2 state``: inspect, export and purge a state."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from uid2_async.bulk.exports import check_export, export_history, export_state
from uid2_async.bulk.paths import Location, write_atomically
from uid2_async.bulk.private_files import open_private
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import StateStatistics
from uid2_async.cli.connection import run_async
from uid2_async.cli.options import (
    Command,
    ForceOption,
    JobJsonOption,
    KindOption,
    StateArgument,
)
from uid2_async.cli.output import dump_json, print_lines, print_message
from uid2_async.cli.report import write_page
from uid2_async.cli.values import find_state, read_lines
from uid2_async.errors import InputError
from uid2_async.protocol.wire import iso

T = TypeVar("T")

state_app: typer.Typer = typer.Typer(
    help="Inspect, export, purge and maintain a state file.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

OutOption = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The file to write, whose name sets the format; - is stdout.",
    ),
]


def _find(path: str) -> MappingState:
    """Return a closed state, which must exist."""
    return MappingState(find_state(path))


def _run(state: MappingState, job: Callable[[MappingState], Awaitable[T]]) -> T:
    """Open *state* for *job*, and return its result."""

    async def run() -> T:
        async with state:
            return await job(state)

    return run_async(run())


@state_app.command(cls=Command)
def show(state: StateArgument, *, as_json: JobJsonOption = False) -> None:
    """Show counts of a state: by type and status, what is due, and the age."""
    counts = _run(_find(state), MappingState.statistics)
    if as_json:
        sys.stdout.write(dump_json(_facts(counts)))
        return
    for name, value in _facts(counts).items():
        if isinstance(value, dict):
            for each, count in value.items():
                print_lines([f"{name} {each}: {count:,}"])
        elif value is not None:
            shown = f"{value:,}" if isinstance(value, int) else value
            print_lines([f"{name}: {shown}"])


def _facts(counts: StateStatistics) -> dict[str, Any]:
    """List the facts of a state."""
    rows = {f"{kind} {status}": n for (kind, status), n in counts.rows.items()}
    last = counts.runs[-1] if counts.runs else None
    oldest = counts.oldest_check
    return {
        "scope": counts.scope,
        "operator": counts.operator,
        "identities": dict(sorted(rows.items())),
        "due": counts.due,
        "oldest check": None if oldest is None else iso(oldest * 1000),
        "pending changes": counts.pending,
        "suppressed": counts.suppressed,
        "runs": len(counts.runs),
        "last run": None if last is None else last.number,
        "last run began": None if last is None else iso(last.started * 1000),
        "bytes": counts.file_bytes,
    }


@state_app.command(cls=Command)
def export(
    state: StateArgument, target: OutOption, *, force: ForceOption = False
) -> None:
    """Write the whole state to a file."""
    count = _run(_find(state), lambda one: export_state(one, target, force=force))
    print_message("info", f"{count:,} identities written.")


@state_app.command(cls=Command)
def report(
    state: StateArgument,
    *,
    html: Annotated[
        str, typer.Option("--html", metavar="FILE", help="The page to write.")
    ],
    force: ForceOption = False,
) -> None:
    """Write an HTML page with charts: statuses, what is due, opt-outs, ages.

    It contains only counts, and needs no other file.
    """
    found = _find(state)
    target = check_export(found, html, role="--html", force=force) or Path(html)
    _write_report(_run(found, MappingState.statistics), target)
    print_message("info", f"The report is in {target}.")


def _write_report(figures: StateStatistics, target: Location) -> None:
    """Write the page whole or not at all."""

    def write(path: Path) -> None:
        with os.fdopen(open_private(path), "w", encoding="utf-8") as file:
            file.write(write_page(figures))

    if isinstance(target, Path):
        write_atomically(target, write)
        return
    with tempfile.TemporaryDirectory(prefix="uid2-") as folder:
        write(whole := Path(folder) / "report.html")
        target.deliver(whole)


@state_app.command(cls=Command)
def delta(
    state: StateArgument,
    target: OutOption,
    *,
    since: Annotated[
        int,
        typer.Option(
            "--since", metavar="RUN", min=1, help="The number of the first run."
        ),
    ],
    force: ForceOption = False,
) -> None:
    """Write the net changes since a run of the last 90 days.

    'uid2 state show' prints the number of the last run. Changes that no delta has
    exported yet stay pending.
    """
    count = _run(
        _find(state), lambda one: export_history(one, target, since=since, force=force)
    )
    print_message("info", f"{count:,} changes written.")


@state_app.command(cls=Command)
def purge(
    state: StateArgument,
    *,
    kind: KindOption = None,
    suppress: Annotated[
        bool,
        typer.Option(
            "--suppress/--no-suppress",
            help="Keep a keyed digest of each person, so that they are never added "
            "again. Otherwise they come back with the next input that contains them.",
        ),
    ] = True,
) -> None:
    """Delete the people listed on stdin.

    Each line is an email address, a phone number, a hash or a raw UID. Nothing about
    these people can be read from the files afterwards, and the next delta lists them as
    removed. Unless --no-suppress is given, the state then returns an opt-out for them,
    so that no input adds them again.
    """
    lines = [line for line in read_lines(["-"], None) if line.strip()]
    if not lines:
        raise InputError("stdin is empty.", hint="Enter one per line.")
    count = _run(
        _find(state), lambda one: one.purge(lines, kind=kind, suppress=suppress)
    )
    print_message("info", f"{count:,} of {len(lines):,} were found and deleted.")


@state_app.command(cls=Command)
def vacuum(state: StateArgument) -> None:
    """Return unused disk space to the file system."""
    before = Path(state).stat().st_size if Path(state).is_file() else 0
    _run(_find(state), MappingState.vacuum)
    print_message(
        "info", f"{before:,} bytes before, {Path(state).stat().st_size:,} now."
    )
