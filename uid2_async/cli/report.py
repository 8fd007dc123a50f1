"""The page of ``uid2 state report``: counts of a state, as charts and tables.

It is self-contained: no scripts, fonts or external addresses.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from string import Template
from typing import Any, Final

from uid2_async._private import printable
from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DUE_DAYS,
    OPT_OUT_DAYS,
    StateStatistics,
)
from uid2_async.models import IdentityType

_WEEK: Final = 7


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
    sections = (
        _people(figures),
        _due(figures),
        _opt_outs(figures),
        _versions(figures),
        _ages(figures),
    )
    shown = {name: value for name, value in facts.items() if value is not None}
    return render(shown, sections)


# --- what it says ---------------------------------------------------------------------


def _instant(seconds: int | None) -> str | None:
    """Format a time for people."""
    if seconds is None:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _today(figures: StateStatistics) -> date:
    return datetime.fromtimestamp(figures.now, UTC).date()


def _percent(number: int, total: int) -> str:
    return f"{100 * number / total:.1f}\N{NO-BREAK SPACE}%" if total else "-"


def _people(figures: StateStatistics) -> str:
    """Mapped, opted out, invalid."""
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
    """Raw UIDs that become due, by day."""
    today = _today(figures)
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
    """Opt-outs over time."""
    today = _today(figures)
    weeks = []
    for ago in reversed(range(0, OPT_OUT_DAYS, _WEEK)):
        end = min(ago + _WEEK, OPT_OUT_DAYS)
        first, last = today - timedelta(end - 1), today - timedelta(ago)
        weeks.append((first, last, sum(figures.opt_outs[ago:end])))
    return write_section(
        name="optouts",
        title=f"Opt-outs in the last {OPT_OUT_DAYS} days",
        text=f"{sum(figures.opt_outs):,} identities that were mapped before are opted "
        "out, counted in the week of the job that noticed it. "
        f"{figures.opt_outs_before:,} more opted out earlier, or were already opted "
        "out at their first check.",
        bars=[number for *_, number in weeks],
        head=["from", "to", "opt-outs"],
        rows=[
            [first.isoformat(), last.isoformat(), f"{number:,}"]
            for first, last, number in weeks
        ],
    )


def _with_shares(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the bars of counts, and rows with the share of each."""
    values = list(counts.values())
    shares = [_percent(value, sum(values)) for value in values]
    rows = zip(counts, (f"{value:,}" for value in values), shares, strict=True)
    return {"bars": values, "rows": list(rows)}


def _versions(figures: StateStatistics) -> str:
    """Raw UIDs by version."""
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
    """Identities by when they were checked."""
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


# --- how it looks ---------------------------------------------------------------------


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
{_table(name, head, rows, [""] * len(rows))}
</details>"""
    else:
        cells = [
            f'<td aria-hidden="true"><i style="width:{length}"></i></td>'
            for length in _lengths(bars)
        ]
        table = _table(name, head, rows, cells)
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
    last_cells: Sequence[str],
) -> str:
    """Write a table, whose rows end with *last_cells* unless those are empty."""
    headings = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in head)
    if any(last_cells):
        headings += "<td></td>"
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
    return html.escape(printable(text))
