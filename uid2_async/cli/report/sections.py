"""What a report says of a state: sentences, bars and tables, of counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import attrs

from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DUE_DAYS,
    OPT_OUT_DAYS,
    StateStatistics,
)
from uid2_async.models import IdentityType

__all__ = ["Bars", "Section", "describe", "facts"]

_WEEK = 7


@attrs.frozen(kw_only=True)
class Bars:
    """A picture.

    Attributes:
        labels: What is written beside each bar; nothing at those that need no name.
        values: How long they are.
        notes: What is written behind each, where they lie.
        across: Whether they lie.
    """

    labels: Sequence[str]
    values: Sequence[int]
    notes: Sequence[str] = ()
    across: bool = False


@attrs.frozen(kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        name: A word that tells it from the others.
        title: Its heading.
        text: What is to be known.
        bars: Its picture.
        head: The headings of its table.
        rows: The table, which says what the picture shows.
    """

    name: str
    title: str
    text: str
    bars: Bars
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def facts(figures: StateStatistics) -> dict[str, str]:
    """List what stands at the top."""
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


def describe(figures: StateStatistics) -> list[Section]:
    """Write the sections."""
    return [
        _people(figures),
        _due(figures),
        _opt_outs(figures),
        _versions(figures),
        _ages(figures),
    ]


def _instant(seconds: int | None) -> str | None:
    """Write an instant for people."""
    if seconds is None:
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _today(figures: StateStatistics) -> date:
    return datetime.fromtimestamp(figures.now, UTC).date()


def _share(number: int, total: int) -> str:
    return f"{100 * number / total:.1f}\N{NO-BREAK SPACE}%" if total else "-"


def _noted(values: Sequence[int]) -> list[str]:
    """Write numbers and what share of all they are."""
    return [f"{value:,} ({_share(value, sum(values))})" for value in values]


def _people(figures: StateStatistics) -> Section:
    """Mapped, opted out, invalid."""
    names = {"mapped": "mapped", "optout": "opted out", "invalid identifier": "invalid"}
    counts = {name: dict.fromkeys(IdentityType, 0) for name in names.values()}
    for (kind, status), number in figures.rows.items():
        name = names.get(status, "unmapped for other reasons")
        row = counts.setdefault(name, dict.fromkeys(IdentityType, 0))
        row[kind] += number
    values = [sum(row.values()) for row in counts.values()]
    return Section(
        name="identities",
        title="Mapped, opted out, invalid",
        text="What the operator said of each identity when it was asked last.",
        bars=Bars(
            labels=list(counts), values=values, notes=_noted(values), across=True
        ),
        head=["status", "e-mails", "phones", "together", "share"],
        rows=[
            [name, *(f"{row[kind]:,}" for kind in IdentityType), f"{value:,}", share]
            for (name, row), value, share in zip(
                counts.items(),
                values,
                [_share(value, sum(values)) for value in values],
                strict=True,
            )
        ],
    )


def _due(figures: StateStatistics) -> Section:
    """Raw UIDs to be asked about again, by day."""
    today = _today(figures)
    days = [(today + timedelta(days)).isoformat() for days in range(DUE_DAYS)]
    rows = [
        ["due already", f"{figures.overdue:,}"],
        *([day, f"{n:,}"] for day, n in zip(days, figures.due_days, strict=True)),
        ["later", f"{figures.due_later:,}"],
    ]
    if figures.due_by_bucket:
        rows.append(["when their salt bucket rotates", f"{figures.due_by_bucket:,}"])
    labels = [day[5:] if not at % _WEEK else "" for at, day in enumerate(days)]
    advice = " (uid2 refresh asks about them)" if figures.overdue else ""
    return Section(
        name="due",
        title=f"Raw UIDs due in the next {DUE_DAYS} days",
        text=f"{figures.overdue:,} are due already{advice}, "
        f"{sum(figures.due_days):,} more until {days[-1]}, "
        f"{figures.due_later:,} later.",
        bars=Bars(labels=labels, values=figures.due_days),
        head=["day", "raw UIDs due"],
        rows=rows,
    )


def _weeks(figures: StateStatistics) -> Iterator[tuple[date, date, int]]:
    """Sum up opt-outs by week, the oldest first: first day, last day, how many."""
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
        "out, counted in the week of the job that saw it. "
        f"{figures.opt_outs_before:,} more were so earlier, or when first asked about.",
        bars=Bars(
            labels=[first.isoformat()[5:] for first, *_ in weeks],
            values=[number for *_, number in weeks],
        ),
        head=["from", "to", "opt-outs"],
        rows=[
            [first.isoformat(), last.isoformat(), f"{number:,}"]
            for first, last, number in weeks
        ],
    )


def _versions(figures: StateStatistics) -> Section:
    """Raw UIDs by version."""
    names = {2: "version 2", 3: "version 3", 4: "version 4", None: "none known"}
    found = {
        name: figures.versions.get(version, 0)
        for version, name in names.items()
        if version is not None or figures.versions.get(version)
    }
    values = list(found.values())
    return Section(
        name="versions",
        title="Versions of the raw UIDs",
        text="All of them are valid; with a rotated salt an identity may get another.",
        bars=Bars(labels=list(found), values=values, notes=_noted(values), across=True),
        head=["version", "raw UIDs", "share"],
        rows=[
            [name, f"{number:,}", _share(number, sum(values))]
            for name, number in found.items()
        ],
    )


def _ages(figures: StateStatistics) -> Section:
    """Identities by when they were checked."""
    starts = [0, *AGE_DAYS]
    labels = [
        "less than a day" if start == 0 else f"{start} to {end} days"
        for start, end in zip(starts, AGE_DAYS, strict=False)
    ]
    labels.append(f"{AGE_DAYS[-1]} days or more")
    values = list(figures.ages)
    return Section(
        name="ages",
        title="Time since the last check",
        text="An opt-out can stay unseen for as long as nobody asks.",
        bars=Bars(labels=labels, values=values, notes=_noted(values), across=True),
        head=["checked ago", "identities", "share"],
        rows=[
            [label, f"{value:,}", _share(value, sum(values))]
            for label, value in zip(labels, values, strict=True)
        ],
    )
