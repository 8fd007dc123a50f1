"""``uid2 state``: inspect, export and purge a state.

The page of ``uid2 state report`` is self-contained: no scripts, fonts or external
addresses.
"""

from __future__ import annotations

import html as markup
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any, Final, TypeVar

import typer

from uid2_async._private import printable
from uid2_async.bulk.exports import check_export, export_history, export_state
from uid2_async.bulk.paths import Location, temp_sibling, write_atomically
from uid2_async.bulk.private_files import open_private
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DUE_DAYS,
    OPT_OUT_DAYS,
    StateStatistics,
)
from uid2_async.cli.connection import run_async
from uid2_async.cli.options import (
    Command,
    ForceOption,
    JobJsonOption,
    StateArgument,
)
from uid2_async.cli.output import dump_json, print_lines, print_message
from uid2_async.cli.values import find_state, read_lines
from uid2_async.errors import InputError
from uid2_async.models import IdentityType
from uid2_async.protocol.wire import iso

T = TypeVar("T")

_WEEK: Final = 7

state_app: typer.Typer = typer.Typer(
    help="Inspect, export, purge and maintain a state file.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class PersonKind(StrEnum):
    """What names a person."""

    EMAIL = "email"
    PHONE = "phone"
    EMAIL_HASH = "email_hash"
    PHONE_HASH = "phone_hash"
    RAW_UID = "raw_uid"


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
        str,
        typer.Option("--html", metavar="FILE", help="The page to write; - is stdout."),
    ],
    force: ForceOption = False,
) -> None:
    """Write an HTML page with charts: statuses, what is due, opt-outs, ages.

    It contains only counts, and needs no other file.
    """
    found = _find(state)
    target = check_export(found, html, role="--html", force=force)
    _write_report(_run(found, MappingState.statistics), target)
    if target is not None:
        print_message("info", f"The report is in {target}.")


def _write_report(figures: StateStatistics, target: Location | None) -> None:
    """Write the page whole or not at all."""

    def write(path: Path) -> None:
        with os.fdopen(open_private(path), "w", encoding="utf-8") as file:
            file.write(write_page(figures))

    if target is None:
        sys.stdout.write(write_page(figures))
        return
    if isinstance(target, Path):
        with temp_sibling(target):
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
    kind: Annotated[
        PersonKind | None,
        typer.Option(
            "--type",
            help="What each line is. By default, its form shows it. A hash is deleted "
            "as that of an email address and of a phone number.",
        ),
    ] = None,
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


# --- the page of the report -----------------------------------------------------------


def write_page(figures: StateStatistics) -> str:
    """Return the page about a state, as HTML."""
    facts = {
        "counted": _instant(figures.now),
        "scope": None if figures.scope is None else str(figures.scope),
        "operator": figures.operator,
        "identities": f"{sum(figures.rows.values()):,}",
        "due already": f"{figures.overdue:,}",
        "jobs": f"{len(figures.runs):,}",
        "last job began": _instant(figures.runs[-1].started if figures.runs else None),
        "oldest check": _instant(figures.oldest_check),
    }
    shown = {name: value for name, value in facts.items() if value is not None}
    sections = (_people, _due, _opt_outs, _versions, _ages)
    return render(shown, [write(figures) for write in sections])


def _instant(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _people(figures: StateStatistics) -> str:
    names = {"mapped": "mapped", "optout": "opted out", "invalid identifier": "invalid"}
    counts = {name: dict.fromkeys(IdentityType, 0) for name in names.values()}
    for (kind, status), number in figures.rows.items():
        name = names.get(status, "unmapped for other reasons")
        row = counts.setdefault(name, dict.fromkeys(IdentityType, 0))
        row[kind] += number
    totals = _with_shares({name: sum(row.values()) for name, row in counts.items()})
    return write_section(
        name="identities",
        title="Mapped, opted out, invalid",
        text="The operator's last reply about each identity.",
        bars=totals["bars"],
        head=["status", "emails", "phones", "together", "share"],
        rows=[
            [name, *(f"{counts[name][kind]:,}" for kind in IdentityType), *total]
            for name, *total in totals["rows"]
        ],
    )


def _due(figures: StateStatistics) -> str:
    today = datetime.fromtimestamp(figures.now, UTC).date()
    days = [(today + timedelta(days)).isoformat() for days in range(DUE_DAYS)]
    rows = [
        ["due already", f"{figures.overdue:,}"],
        *([day, f"{n:,}"] for day, n in zip(days, figures.due_days, strict=True)),
        ["later", f"{figures.due_later:,}"],
    ]
    if figures.due_by_bucket:
        rows.append(["when their salt bucket rotates", f"{figures.due_by_bucket:,}"])
    advice = " (uid2 refresh asks about them)" if figures.overdue else ""
    return write_section(
        name="due",
        title=f"Raw UIDs due in the next {DUE_DAYS} days",
        text=f"{figures.overdue:,} are due already{advice}, "
        f"{sum(figures.due_days):,} more until {days[-1]}, "
        f"{figures.due_later:,} later.",
        bars=figures.due_days,
        labels=days,
        head=["day", "raw UIDs due"],
        rows=rows,
    )


def _opt_outs(figures: StateStatistics) -> str:
    today = datetime.fromtimestamp(figures.now, UTC).date()
    starts = range(0, OPT_OUT_DAYS, _WEEK)[::-1]
    counts = [sum(figures.opt_outs[ago : ago + _WEEK]) for ago in starts]
    rows = []
    for ago, count in zip(starts, counts, strict=True):
        first = today - timedelta(min(ago + _WEEK, OPT_OUT_DAYS) - 1)
        last = today - timedelta(ago)
        rows.append([first.isoformat(), last.isoformat(), f"{count:,}"])
    return write_section(
        name="optouts",
        title=f"Opt-outs in the last {OPT_OUT_DAYS} days",
        text=f"{sum(figures.opt_outs):,} identities that were mapped before are opted "
        "out, counted in the week of the job that noticed it. "
        f"{figures.opt_outs_before:,} more opted out earlier, or were already opted "
        "out at their first check.",
        bars=counts,
        head=["from", "to", "opt-outs"],
        rows=rows,
    )


def _with_shares(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the bars of counts, and rows with the share of each."""
    rows, total = [], sum(counts.values())
    for name, count in counts.items():
        share = f"{100 * count / total:.1f}\N{NO-BREAK SPACE}%" if total else "-"
        rows.append([name, f"{count:,}", share])
    return {"bars": list(counts.values()), "rows": rows}


def _versions(figures: StateStatistics) -> str:
    names = {2: "version 2", 3: "version 3", 4: "version 4", None: "none known"}
    found = {
        name: figures.versions.get(version, 0)
        for version, name in names.items()
        if version is not None or figures.versions.get(version)
    }
    return write_section(
        name="versions",
        title="Versions of the raw UIDs",
        text="All of them are valid. After a salt rotation, an identity may get "
        "another version.",
        head=["version", "raw UIDs", "share"],
        **_with_shares(found),
    )


def _ages(figures: StateStatistics) -> str:
    starts = [0, *AGE_DAYS]
    labels = [
        "less than a day" if start == 0 else f"{start} to {end} days"
        for start, end in zip(starts, AGE_DAYS, strict=False)
    ]
    labels.append(f"{AGE_DAYS[-1]} days or more")
    return write_section(
        name="ages",
        title="Time since the last check",
        text="An opt-out is not noticed until the operator is asked.",
        head=["checked ago", "identities", "share"],
        **_with_shares(dict(zip(labels, figures.ages, strict=True))),
    )


def render(facts: Mapping[str, str], sections: Iterable[str]) -> str:
    """Return a page with *facts* at the top and *sections* below them."""
    page = (files("uid2_async.cli") / "report.html").read_text("utf-8")
    return Template(page).substitute(
        facts="\n".join(
            f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>"
            for name, value in facts.items()
        ),
        sections="\n".join(sections),
    )


def write_section(
    *,
    name: str,
    title: str,
    text: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bars: Sequence[int],
    labels: Sequence[str] = (),
) -> str:
    """Write a section: a table, which is folded below a chart if there are *labels*.

    Without a chart, each row of the table ends with a bar.
    """
    if labels:
        table = f"""{_chart(title, labels, bars)}\
<details><summary>As a table, {len(rows)} rows</summary>
{_table(name, head, rows)}
</details>"""
    else:
        table = _table(name, head, rows, bars)
    return f"""<section aria-labelledby="{name}">
<h2 id="{name}">{_escape(title)}</h2>
<p>{_escape(text)}</p>
{table}
</section>"""


def _chart(title: str, labels: Sequence[str], bars: Sequence[int]) -> str:
    """Write a chart, with labels and values as tooltips."""
    columns = "".join(
        f'<i style="height:{length}" title="{_escape(label)}: {value:,}"></i>'
        for label, value, length in zip(labels, bars, _lengths(bars), strict=True)
    )
    return f"""<div class="columns" role="img" aria-label="{_escape(title)}">
{columns}</div>
<p class="faint range"><span>{_escape(labels[0])}</span><span>highest: \
{max(bars):,}</span><span>{_escape(labels[-1])}</span></p>
"""


def _table(
    name: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bars: Sequence[int] = (),
) -> str:
    """Write a table, whose rows end with *bars* if there are any."""
    headings = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in head)
    last_cells = [""] * len(rows)
    if bars:
        headings += "<td></td>"
        last_cells = [
            f'<td aria-hidden="true"><i style="width:{length}"></i></td>'
            for length in _lengths(bars)
        ]
    lines = "\n".join(
        f'<tr><th scope="row">{_escape(first)}</th>'
        + "".join(f"<td>{_escape(cell)}</td>" for cell in rest)
        + f"{last}</tr>"
        for (first, *rest), last in zip(rows, last_cells, strict=True)
    )
    return f"""<div class="scroll"><table aria-labelledby="{name}">
<thead><tr>{headings}</tr></thead>
<tbody>
{lines}
</tbody>
</table></div>"""


def _lengths(values: Sequence[int]) -> list[str]:
    """Return the bar lengths for CSS, relative to the longest."""
    longest = max(1, *values)
    return [f"{100 * value / longest:.1f}%" for value in values]


def _escape(text: str) -> str:
    """Escape markup and control characters."""
    return markup.escape(printable(text))
