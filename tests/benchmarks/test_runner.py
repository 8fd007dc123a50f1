"""The runner of the benchmarks, on figures that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks.runner import (
    Better,
    Effort,
    Measure,
    Sample,
    Spread,
    Table,
    baseline,
    interleave,
)
from benchmarks.runner.page import END, replace_part
from benchmarks.runner.reach import REACHES, Reach, reaches_of
from benchmarks.runner.text import figure, for_page, for_terminal, with_spread


def make_table(
    ours: Sequence[float], floor: Sequence[float], better: Better = Better.LESS
) -> Table:
    """Make a table of two lines."""
    lines = {
        "floor": [Sample(value) for value in floor],
        "ours": [Sample(value, {"RSS MB": 10 * value}) for value in ours],
    }
    return Table(
        title="Cost",
        unit="us",
        better=better,
        baseline="floor",
        ours=("ours",),
        lines=lines,
    )


# --- measuring ------------------------------------------------------------------------


def test_subjects_take_turns() -> None:
    """Each round measures all, every other one backwards; a warm-up does not count."""
    order: list[str] = []

    def measure(name: str) -> Measure:
        def note() -> float:
            order.append(name)
            return len(order)

        return note

    found = interleave({name: measure(name) for name in "abc"}, rounds=2)

    assert "".join(order) == "cba" + "abc" + "cba"
    assert [sample.value for sample in found["a"]] == [4, 9]


def test_a_spread_is_median_and_quartiles() -> None:
    """One wild value moves the middle little."""
    assert Spread.of([3.0, 1.0, 2.0, 100.0, 4.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_made_in_each_round() -> None:
    """What slows both down for a round is not seen in the ratio."""
    table = make_table(ours=[3.0, 30.0, 3.0], floor=[2.0, 20.0, 2.0])

    assert table.ratio("ours") == Spread(1.5, 1.5, 1.5)
    assert table.ratio("floor", "ours").middle == pytest.approx(2 / 3)
    assert table.spread("ours", "RSS MB").middle == 30.0


def test_effort_chooses() -> None:
    """The full effort is the normal one where nothing larger is named."""
    assert [effort.pick(1, 2) for effort in Effort] == [1, 2, 2]
    assert [effort.pick(1, 2, 3) for effort in Effort] == [1, 2, 3]


# --- reaches --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reach", "met"),
    [
        (Reach(benchmark="b", line="ours", against="floor", at_most=1.5), True),
        (Reach(benchmark="b", line="ours", against="floor", at_most=1.4), False),
        (Reach(benchmark="b", line="floor", against="ours", at_least=0.6), True),
        (Reach(benchmark="b", line="ours", at_most=2.9), False),
        (Reach(benchmark="b", line="ours", at_least=3.0), True),
        (Reach(benchmark="b", line="ours", column="RSS MB", at_most=30.0), True),
    ],
)
def test_a_reach_is_met_or_not(reach: Reach, met: bool) -> None:
    """The middle of a figure or of a ratio is held against the limit."""
    table = make_table(ours=[3.0, 3.0, 3.1], floor=[2.0, 2.0, 2.0])

    assert reach.is_met(table) is met


def test_a_reach_is_found_where_it_belongs() -> None:
    """Benchmark, title and lines must be the ones that are named."""
    table = make_table([1.0], [1.0])
    here = Reach(benchmark="b", title="Cost", line="ours", at_most=1.0)
    elsewhere = [
        Reach(benchmark="c", line="ours", at_most=1.0),
        Reach(benchmark="b", title="Speed", line="ours", at_most=1.0),
        Reach(benchmark="b", line="theirs", at_most=1.0),
        Reach(benchmark="b", line="ours", against="theirs", at_most=1.0),
    ]

    assert reaches_of("b", table, [here, *elsewhere]) == [here]


def test_each_reach_has_one_limit() -> None:
    """A reach is at most or at least something."""
    for reach in REACHES:
        assert (reach.at_most is None) != (reach.at_least is None), reach


# --- text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.034, "0.03"), (1.475, "1.48"), (12.34, "12.3"), (333_333.3, "333,333")],
)
def test_figures_are_short(value: float, text: str) -> None:
    """Nobody reads more than three or so digits."""
    assert figure(value) == text


def test_a_spread_is_written_unless_there_is_none() -> None:
    """The quartiles stand in brackets."""
    assert with_spread(Spread(1.0, 2.0, 3.0)) == "2.00 (1.00 to 3.00)"
    assert with_spread(Spread(2.0, 2.0, 2.0)) == "2.00"


def test_tables_are_written() -> None:
    """Terminal and page show each line, its ratio, what was seen, and the reach."""
    table = make_table(ours=[3.0, 3.0], floor=[2.0, 2.0])

    assert "ours" in for_terminal("b", table)
    assert "| ours | 3.00 | 1.50 | 30.0 |" in for_page("b", [table])
    assert "| floor | 2.00 | 1.00 |  |" in for_page("b", [table])


def test_tables_survive_json() -> None:
    """The results that are saved with the page are read again for the README."""
    table = make_table(ours=[3.0, 3.5], floor=[2.0, 2.0], better=Better.MORE)

    assert msgspec.json.decode(msgspec.json.encode(table), type=Table) == table


# --- pages ----------------------------------------------------------------------------


def test_a_marked_part_is_replaced() -> None:
    """Only what stands between the markers of the name changes."""
    page = (
        f"Text.\n<!-- table: a -->\nold\nlines\n{END}\nMore.\n"
        f"<!-- table: b -->\n{END}\n"
    )

    replaced = replace_part(page, "a", r"new \1")

    assert replaced == page.replace("old\nlines", r"new \1")
    assert replace_part(replaced, "a", "old\nlines") == page
    assert f"<!-- table: b -->\nx\n{END}" in replace_part(page, "b", "x")


@pytest.mark.parametrize("count", [0, 2])
def test_a_part_must_be_marked_once(count: int) -> None:
    """A page that lacks the markers is not changed silently."""
    page = f"<!-- table: a -->\n{END}\n" * count

    with pytest.raises(ValueError, match=f"{count} parts"):
        replace_part(page, "a", "new")


# --- the baseline ---------------------------------------------------------------------


def worse_lines(before: Table, now: Table, margin: float = 0.1) -> list[str]:
    """Compare two runs as ``--check`` does, through the file."""
    data = baseline.write({"b": baseline.ratios([before])})
    found = baseline.find_worse("b", [now], baseline.read(data), margin)
    return [one.where for one in found]


BEFORE = make_table(ours=[1.4, 1.5, 1.6], floor=[1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("ours", "worse"),
    [
        ([1.5, 1.5, 1.5], False),
        ([1.0, 1.0, 1.0], False),
        # Within the spread and 10 % of it: the quartile of then is 1.55.
        ([1.7, 1.7, 1.7], False),
        ([1.71, 1.71, 1.71], True),
        # Half of the rounds were disturbed.
        ([1.5, 1.6, 9.0, 9.0], False),
        ([3.0, 3.0, 3.0], True),
    ],
)
def test_check_fails_beyond_the_spread(ours: list[float], worse: bool) -> None:
    """The better quartile of now stands against the worse one of then."""
    now = make_table(ours=ours, floor=[1.0] * len(ours))

    assert worse_lines(BEFORE, now) == (["b, Cost, ours"] if worse else [])


def test_check_knows_which_way_is_worse() -> None:
    """For speeds less is worse."""
    before = make_table([2.0], [1.0], Better.MORE)

    assert worse_lines(before, make_table([1.7], [1.0], Better.MORE))
    assert not worse_lines(before, make_table([1.9], [1.0], Better.MORE))
    assert not worse_lines(before, make_table([9.0], [1.0], Better.MORE))


def test_check_ignores_what_is_not_ours_and_how_fast_the_machine_is() -> None:
    """A machine that is ten times slower passes; so does a slower floor."""
    slow = make_table(ours=[14.0, 15.0, 16.0], floor=[10.0, 10.0, 10.0])

    assert worse_lines(BEFORE, slow) == []


def test_a_margin_widens_the_spread() -> None:
    """CI allows half on top, on whatever machine it runs."""
    now = make_table(ours=[2.3, 2.3, 2.3], floor=[1.0, 1.0, 1.0])

    assert worse_lines(BEFORE, now, margin=0.5) == []
    assert worse_lines(BEFORE, now, margin=0.1)


def test_the_committed_baseline_is_readable() -> None:
    """It names benchmarks that exist."""
    folder = Path(baseline.__file__).parents[1]
    kept = baseline.read((folder / "baseline.json").read_bytes())

    assert kept
    for name in kept:
        assert (folder / f"{name}.py").exists()


def test_the_page_has_room_for_each_benchmark() -> None:
    """Each benchmark of the page exists, and each that exists has its part."""
    root = Path(baseline.__file__).parents[2]
    page = (root / "docs" / "performance.md").read_text(encoding="utf-8")

    for name in {reach.benchmark for reach in REACHES}:
        replace_part(page, name, "")
        assert f"performance/{name}.svg" in page
