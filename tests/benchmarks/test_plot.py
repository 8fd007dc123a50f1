"""Plots of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.runner import Sample, Table

matplotlib = pytest.importorskip("matplotlib", reason="comes with the group bench")


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    """A plot changes only with the figures; its text is text."""
    from benchmarks.runner.plot import draw  # noqa: PLC0415 - behind the skip

    lines = {"floor": [Sample(1.0), Sample(1.2)], "ours": [Sample(30.0), Sample(33.0)]}
    table = Table(
        title="Cost", unit="us", baseline="floor", ours=("ours",), lines=lines
    )
    for name in ("a.svg", "b.svg"):
        draw([table, table], tmp_path / name)

    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    assert b"ours" in drawn
    assert b"Cost (less is better)" in drawn
