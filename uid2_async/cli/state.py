"""``uid2 state``: look into a state, hand it on, and forget people."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uid2_async.cli.job_options import ForceOption, JsonOption, StateArgument
from uid2_async.cli.options import KindOption
from uid2_async.cli.printing import dump_json, print_lines, print_message
from uid2_async.cli.run_async import run_async
from uid2_async.cli.values import read_lines
from uid2_async.errors import InputError
from uid2_async.protocol.wire import iso

if TYPE_CHECKING:
    from uid2_async.bulk.paths import Location
    from uid2_async.bulk.state import MappingState
    from uid2_async.bulk.state_values import StateStatistics

__all__ = ["state_app"]

state_app: typer.Typer = typer.Typer(
    help="Inspect, export, purge and maintain a state file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OutOption = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The file to write, in the format that its name says; - is stdout.",
    ),
]


def _open(path: str) -> MappingState:
    """Find a state that is there; the block opens it."""
    from uid2_async.bulk.state import MappingState  # noqa: PLC0415 - --help need not wait

    if not Path(path).is_file():
        raise InputError(f"There is no state {path}.", hint="Check the path.")
    return MappingState(Path(path))


@state_app.command()
def show(state: StateArgument, *, as_json: JsonOption = False) -> None:
    """Count what a state knows: by type and status, what is due, how old it is."""

    async def job() -> StateStatistics:
        async with _open(state) as opened:
            return await opened.statistics()

    counts = run_async(job())
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


@state_app.command()
def export(
    state: StateArgument, target: OutOption, *, force: ForceOption = False
) -> None:
    """Write everything that a state knows into a file."""
    from uid2_async.bulk.exports import export_state  # noqa: PLC0415 - --help need not wait

    async def job() -> int:
        async with _open(state) as opened:
            return await export_state(opened, target, force=force)

    print_message("info", f"{run_async(job()):,} identities written.")


@state_app.command()
def report(
    state: StateArgument,
    *,
    html: Annotated[
        str, typer.Option("--html", metavar="FILE", help="The page to write.")
    ],
    force: ForceOption = False,
) -> None:
    """Write a page with pictures: who is mapped, what is due, opt-outs, ages.

    It holds counts alone, and needs no other file. Its pictures need the extra report.
    """
    if find_spec("matplotlib") is None:
        raise InputError(
            "The report needs matplotlib.", hint="pip install 'uid2-async[report]'"
        )
    from uid2_async.bulk.exports import check_export  # noqa: PLC0415 - --help need not wait

    closed = _open(state)
    target = check_export(closed, html, role="--html", force=force) or Path(html)

    async def job() -> StateStatistics:
        async with closed as opened:
            return await opened.statistics()

    _write_report(run_async(job()), target)
    print_message("info", f"The report is in {target}.")


def _write_report(figures: StateStatistics, target: Location) -> None:
    """Draw, and write the page whole or not at all."""
    from uid2_async.bulk.paths import write_beside  # noqa: PLC0415 - as above
    from uid2_async.bulk.private_files import open_private  # noqa: PLC0415 - as above
    from uid2_async.cli.report import page, pictures, sections  # noqa: PLC0415 - as above

    described = sections.describe(figures)
    drawn = [pictures.draw(one.name, one.title, one.bars) for one in described]
    text = page.render(sections.facts(figures), described, drawn)

    def write(path: Path) -> None:
        with os.fdopen(open_private(path), "w", encoding="utf-8") as file:
            file.write(text)

    if isinstance(target, Path):
        write_beside(target, write)
        return
    with tempfile.TemporaryDirectory(prefix="uid2-") as folder:
        write(whole := Path(folder) / "report.html")
        target.deliver(whole)


@state_app.command()
def delta(
    state: StateArgument,
    target: OutOption,
    *,
    since: Annotated[
        int, typer.Option("--since", metavar="RUN", min=1, help="From which run on.")
    ],
    force: ForceOption = False,
) -> None:
    """Write the net changes since a run, within 90 days; `uid2 state show` counts runs.

    Changes that no delta has exported yet stay pending.
    """
    from uid2_async.bulk.exports import export_history  # noqa: PLC0415 - --help need not wait

    async def job() -> int:
        async with _open(state) as opened:
            return await export_history(opened, target, since=since, force=force)

    print_message("info", f"{run_async(job()):,} changes written.")


@state_app.command()
def purge(
    state: StateArgument,
    *,
    kind: KindOption = None,
    suppress: Annotated[
        bool,
        typer.Option(
            "--suppress/--no-suppress",
            help="Keep a keyed digest of each, so that they are never added again. "
            "Otherwise they come back with the next input that has them.",
        ),
    ] = True,
) -> None:
    """Delete the people named on stdin: an e-mail, phone, hash or raw UID per line.

    Nothing about them can be read from the files any more, and the next delta says that
    they are removed. From then on the state returns an opt-out for them, so that no
    input adds them again.
    """
    lines = [line for line in read_lines(["-"], None) if line.strip()]
    if not lines:
        raise InputError("stdin names nobody.", hint="One a line is needed.")

    async def job() -> int:
        async with _open(state) as opened:
            return await opened.purge(lines, kind=kind, suppress=suppress)

    count = run_async(job())
    print_message("info", f"{count:,} of {len(lines):,} were known, and are deleted.")


@state_app.command()
def vacuum(state: StateArgument) -> None:
    """Give room that is not used back to the file system."""
    before = Path(state).stat().st_size if Path(state).is_file() else 0

    async def job() -> None:
        async with _open(state) as opened:
            await opened.vacuum()

    run_async(job())
    print_message(
        "info", f"{before:,} bytes before, {Path(state).stat().st_size:,} now."
    )
