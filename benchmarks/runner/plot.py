"""Tables as bars: an SVG that reads on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.runner.measuring import Table
from benchmarks.runner.text import figure

# Greys and blues that stand out from white and from black alike.
TEXT = "#7d8590"
OURS = "#3b82f6"
OTHERS = "#94a3b8"
# Text stays text, and the same figures give the same file.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "uid2_async",
    "font.family": "sans-serif",
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}
# From this ratio on, the short bars would vanish on a linear scale.
LOG_FROM = 20
BAR_INCHES = 0.34
FRAME_INCHES = 1.0


def draw(tables: Sequence[Table], path: Path) -> None:
    """Draw *tables* below each other into *path*."""
    bars = [len(table.lines) for table in tables]
    height = sum(BAR_INCHES * count + FRAME_INCHES for count in bars)
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(8, height), layout="constrained")
        axes = drawing.subplots(
            len(tables), squeeze=False, gridspec_kw={"height_ratios": bars}
        )
        for one, table in zip(axes[:, 0], tables, strict=True):
            _draw_table(one, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, format="svg", transparent=True, metadata={"Date": None})
    # matplotlib leaves spaces at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def _draw_table(axes: Axes, table: Table) -> None:
    """Draw a bar for each line, with its quartiles and its figure."""
    spreads = {name: table.spread(name) for name in table.lines}
    middles = [spread.middle for spread in spreads.values()]
    errors = [
        [spread.middle - spread.low for spread in spreads.values()],
        [spread.high - spread.middle for spread in spreads.values()],
    ]
    colours = [OURS if name in table.ours else OTHERS for name in spreads]
    bars = axes.barh(list(spreads), middles, xerr=errors, color=colours, ecolor=TEXT)
    axes.bar_label(bars, labels=[figure(middle) for middle in middles], padding=4)
    highest = max(spread.high for spread in spreads.values())
    if max(middles) > LOG_FROM * min(middles):
        axes.set_xscale("log")
        axes.set_xlim(min(middles) / 3, highest * 3)
    else:
        axes.set_xlim(0, highest * 1.15)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.invert_yaxis()
    axes.set_title(f"{table.title} ({table.better.value} is better)", loc="left")
    axes.set_xlabel(table.unit)
    axes.spines[["top", "right"]].set_visible(False)
