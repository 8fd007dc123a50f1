"""The page of ``uid2 state report``: counts of a state, as charts and tables.

It is self-contained: no scripts, fonts or external addresses.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from string import Template
from typing import Any, Final

import attrs

from uid2_async._private import printable
from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DUE_DAYS,
    OPT_OUT_DAYS,
    StateStatistics,
)
from uid2_async.models import IdentityType

_WEEK: Final = 7


@attrs.frozen(kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its unique ID in the page.
        head: The headings of its table.
        bars: The length of each bar, one per row or per label.
        labels: The labels of a chart above a long table. By default, the bars are in
            the table.
    """

    name: str
    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[int]
    labels: Sequence[str] = ()


def write_page(figures: StateStatistics) -> str:
    """Return the page about a state, as HTML."""
    return render(_facts(figures), _describe(figures))


# --- what it says ---------------------------------------------------------------------


def _facts(figures: StateStatistics) -> dict[str, str]:
    """List the facts at the top."""
    found = {
        "counted": _instant(figures.now),
        "scope": None if figures.scope is None else str(figures.scope),
        "operator": figures.operator,
        "identities": f"{sum(figures.rows.values()):,}",
        "due already": f"{figures.overdue:,}",
        "jobs": f"{len(figures.runs):,}",
        "last job began": _instant(figures.runs[-1].started if figures.runs else None),
        "oldest check": _instant(figures.oldest_check),
    }
    return {name: value for name, value in found.items() if value is not None}


def _describe(figures: StateStatistics) -> list[Section]:
    """Write the sections."""
    return [
        _people(figures),
        _due(figures),
        _opt_outs(figures),
        _versions(figures),
        _ages(figures),
    ]


def _instant(seconds: int | None) -> str | None:
    """Format a time for people."""
    if seconds is None:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _today(figures: StateStatistics) -> date:
    return datetime.fromtimestamp(figures.now, UTC).date()


def _share(number: int, total: int) -> str:
    return f"{100 * number / total:.1f}\N{NO-BREAK SPACE}%" if total else "-"


def _people(figures: StateStatistics) -> Section:
    """Mapped, opted out, invalid."""
    names = {"mapped": "mapped", "optout": "opted out", "invalid identifier": "invalid"}
    counts = {name: dict.fromkeys(IdentityType, 0) for name in names.values()}
    for (kind, status), number in figures.rows.items():
        name = names.get(status, "unmapped for other reasons")
        row = counts.setdefault(name, dict.fromkeys(IdentityType, 0))
        row[kind] += number
    totals = _with_shares({name: sum(row.values()) for name, row in counts.items()})
    return Section(
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


def _due(figures: StateStatistics) -> Section:
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
    return Section(
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


def _weeks(figures: StateStatistics) -> Iterator[tuple[date, date, int]]:
    """Sum up opt-outs by week, oldest first: first day, last day, count."""
    today = _today(figures)
    for ago in reversed(range(0, OPT_OUT_DAYS, _WEEK)):
        end = min(ago + _WEEK, OPT_OUT_DAYS)
        first, last = today - timedelta(end - 1), today - timedelta(ago)
        yield first, last, sum(figures.opt_outs[ago:end])


def _opt_outs(figures: StateStatistics) -> Section:
    """Opt-outs over time."""
    weeks = list(_weeks(figures))
    return Section(
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
    shares = [_share(value, sum(values)) for value in values]
    rows = zip(counts, (f"{value:,}" for value in values), shares, strict=True)
    return {"bars": values, "rows": list(rows)}


def _versions(figures: StateStatistics) -> Section:
    """Raw UIDs by version."""
    names = {2: "version 2", 3: "version 3", 4: "version 4", None: "none known"}
    found = {
        name: figures.versions.get(version, 0)
        for version, name in names.items()
        if version is not None or figures.versions.get(version)
    }
    return Section(
        name="versions",
        title="Versions of the raw UIDs",
        text="All of them are valid. After a salt rotation, an identity may get "
        "another version.",
        head=["version", "raw UIDs", "share"],
        **_with_shares(found),
    )


def _ages(figures: StateStatistics) -> Section:
    """Identities by when they were checked."""
    starts = [0, *AGE_DAYS]
    labels = [
        "less than a day" if start == 0 else f"{start} to {end} days"
        for start, end in zip(starts, AGE_DAYS, strict=False)
    ]
    labels.append(f"{AGE_DAYS[-1]} days or more")
    return Section(
        name="ages",
        title="Time since the last check",
        text="An opt-out is not noticed until the operator is asked.",
        head=["checked ago", "identities", "share"],
        **_with_shares(dict(zip(labels, figures.ages, strict=True))),
    )


# --- how it looks ---------------------------------------------------------------------


def render(facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return a page with *facts* at the top and *sections* below them."""
    page = (files("uid2_async.cli") / "report.html").read_text("utf-8")
    return Template(page).substitute(
        facts="\n".join(
            f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>"
            for name, value in facts.items()
        ),
        sections="\n".join(map(_section, sections)),
    )


def _section(section: Section) -> str:
    """Write one section: a table, which is folded below a chart if it is long."""
    table = _table(section)
    if section.labels:
        summary = f"As a table, {len(section.rows)} rows"
        table = f"""{_columns(section)}<details><summary>{summary}</summary>
{table}
</details>"""
    return f"""<section aria-labelledby="{section.name}">
<h2 id="{section.name}">{_escape(section.title)}</h2>
<p>{_escape(section.text)}</p>
{table}
</section>"""


def _columns(section: Section) -> str:
    """Write the chart of a section, with labels and values as tooltips."""
    columns = "".join(
        f'<i style="height:{length}" title="{_escape(label)}: {value:,}"></i>'
        for label, value, length in zip(
            section.labels, section.bars, _lengths(section.bars), strict=True
        )
    )
    first, last = section.labels[0], section.labels[-1]
    return f"""<div class="columns" role="img" aria-label="{_escape(section.title)}">
{columns}</div>
<p class="faint range"><span>{_escape(first)}</span><span>highest: \
{max(section.bars):,}</span><span>{_escape(last)}</span></p>
"""


def _table(section: Section) -> str:
    """Write the table of a section; if it has bars, each row ends with one."""
    head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in section.head)
    bars = [""] * len(section.rows)
    if not section.labels:
        bars = [
            f'<td aria-hidden="true"><i style="width:{length}"></i></td>'
            for length in _lengths(section.bars)
        ]
        head += "<td></td>"
    rows = "\n".join(
        f'<tr><th scope="row">{_escape(first)}</th>'
        + "".join(f"<td>{_escape(cell)}</td>" for cell in rest)
        + f"{bar}</tr>"
        for (first, *rest), bar in zip(section.rows, bars, strict=True)
    )
    return f"""<div class="scroll"><table aria-labelledby="{section.name}">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _lengths(values: Sequence[int]) -> list[str]:
    """Return the bar lengths for CSS, relative to the longest."""
    longest = max(1, *values)
    return [f"{100 * value / longest:.1f}%" for value in values]


def _escape(text: str) -> str:
    """Escape markup and control characters."""
    return html.escape(printable(text))
