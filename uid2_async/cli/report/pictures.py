"""Bars as SVG that stands in a page: its colours and letters are those of the page.

The only module that imports matplotlib, which the extra ``report`` brings.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import Any, Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uid2_async.cli.report.sections import Bars

__all__ = ["draw"]

# Colours that become variables of the page, so that it can be light or dark.
_INK: Final = "#010101"
_LINE: Final = "#020202"
_BAR: Final = "#030303"
_VARIABLES: Final = {_INK: "ink", _LINE: "line", _BAR: "bar"}

_WIDTH: Final = 8.0
_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "font.family": ["sans-serif"],
    "font.size": 11,
    "grid.color": _LINE,
    # The letters stay letters: they can be searched, copied and read aloud.
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
# What matplotlib adds that a page has no use for.
_UNWANTED: Final = {"metadata", "style"}
_FONT: Final = re.compile(r"(font: [0-9.]+px) [^;]*")
_REFERENCE: Final = re.compile(r"(?<=url\(#)[^)]*|(?<=^#).*")


def draw(name: str, title: str, bars: Bars) -> str:
    """Draw *bars* as an SVG element; the same ones always give the same text.

    Args:
        name: What keeps its ids apart from those of other pictures in the page.
        title: What it shows, for those who do not see it.
        bars: What is drawn.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH, _height(bars)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        (_draw_rows if bars.across else _draw_columns)(axes, bars)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return _embed(text.getvalue(), name, title)


def _height(bars: Bars) -> float:
    """Give a row for each bar, or the height of columns, in inches."""
    return 0.3 + 0.42 * len(bars.values) if bars.across else 2.7


def _draw_rows(axes: Axes, bars: Bars) -> None:
    """Draw a bar a row, with its number behind it."""
    places = range(len(bars.values))
    drawn = axes.barh(places, bars.values, height=0.62, color=_BAR)
    axes.bar_label(drawn, labels=list(bars.notes), padding=5)
    axes.set_yticks(places, bars.labels)
    axes.invert_yaxis()
    # Room for the numbers.
    axes.set_xlim(0, 1.3 * max(1, *bars.values))
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_columns(axes: Axes, bars: Bars) -> None:
    """Draw a column a day, or a week."""
    places = range(len(bars.values))
    axes.bar(places, bars.values, width=0.78, color=_BAR)
    named = [place for place in places if bars.labels[place]]
    axes.set_xticks(named, [bars.labels[place] for place in named])
    axes.set_xlim(-0.7, len(bars.values) - 0.3)
    axes.set_ylim(0, 1.05 * max(1, *bars.values))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _embed(svg: str, name: str, title: str) -> str:
    """Make an element of a page from a file of SVG."""
    root = ET.fromstring(svg)  # noqa: S314 - what matplotlib has just made
    for element in list(root.iter()):
        for child in list(element):
            if _local(child.tag) in _UNWANTED:
                element.remove(child)
    used = {
        found[0]
        for element in root.iter()
        for value in element.attrib.values()
        for found in _REFERENCE.finditer(value)
    }
    for element in root.iter():
        element.tag = _local(element.tag)
        known = element.attrib.pop("id", "")
        element.attrib = {
            _local(key): _adapt(value, name) for key, value in element.attrib.items()
        }
        if known in used:
            element.set("id", f"{name}-{known}")
    root.attrib = {
        "role": "img",
        "aria-label": title,
        "viewBox": root.attrib["viewBox"],
    }
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Take the namespace from a name: HTML knows what SVG is."""
    return name.rpartition("}")[2]


def _adapt(value: str, name: str) -> str:
    """Let an attribute refer to the colours and letters of the page, and to its ids."""
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    value = _FONT.sub(r"\1 var(--letters)", value)
    return _REFERENCE.sub(rf"{name}-\g<0>", value)
