"""What is measured, in turn, and the ratios between it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from statistics import quantiles
from typing import TypeAlias, TypeVar

import attrs

T = TypeVar("T")


class Effort(Enum):
    """How much time a run may take."""

    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"

    def pick(self, quick: T, normal: T, full: T | None = None) -> T:
        """Choose by the effort; the full one may be as large as the normal one."""
        if self is Effort.QUICK:
            return quick
        return full if self is Effort.FULL and full is not None else normal


class Better(Enum):
    """Whether a table shows costs or speeds."""

    LESS = "less"
    MORE = "more"


@attrs.frozen
class Sample:
    """One measurement.

    Attributes:
        value: The cost or speed, in the table's unit.
        also: What was seen beside it, by the name of its column: ``operator %`` is the
            operator's share of all CPU.
    """

    value: float
    also: Mapping[str, float] = attrs.field(factory=dict)


Measure: TypeAlias = Callable[[], "Sample | float"]
"""Measures a subject once."""


@attrs.frozen
class Spread:
    """The middle of some values, and the quartiles around it."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize *values*, of which there is at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(low, middle, high)


@attrs.frozen(kw_only=True)
class Table:
    """Subjects that were measured in turn.

    Attributes:
        title: What was measured.
        unit: What the values are called.
        better: Whether they are costs or speeds.
        baseline: The line that counts as 1.
        ours: The lines that must not become worse than they were.
        lines: The measurements of each subject, one for each round.
    """

    title: str
    unit: str
    baseline: str
    ours: tuple[str, ...]
    lines: Mapping[str, Sequence[Sample]]
    better: Better = Better.LESS

    def values(self, line: str, column: str | None = None) -> list[float]:
        """List what was measured of *line*, round by round, or seen in *column*."""
        if column is None:
            return [sample.value for sample in self.lines[line]]
        return [sample.also[column] for sample in self.lines[line]]

    def spread(self, line: str, column: str | None = None) -> Spread:
        """Summarize what :meth:`values` lists."""
        return Spread.of(self.values(line, column))

    def ratio(
        self, line: str, against: str | None = None, column: str | None = None
    ) -> Spread:
        """Say how many times *against* (the baseline) *line* is.

        Each round gives a ratio of its own: what slows the machine down for a while
        slows both of its parts.
        """
        pairs = zip(
            self.values(line, column),
            self.values(against or self.baseline, column),
            strict=True,
        )
        return Spread.of([one / other for one, other in pairs])

    def columns(self) -> list[str]:
        """List what was seen beside the values, in any of the lines."""
        names = (name for line in self.lines.values() for name in line[0].also)
        return list(dict.fromkeys(names))


def interleave(
    subjects: Mapping[str, Measure], *, rounds: int, warm_up: int = 1
) -> dict[str, list[Sample]]:
    """Measure each of *subjects* once a round, so that all meet the same noise.

    Every other round goes backwards, so that a machine that gets slower or faster
    favours nobody.

    Args:
        subjects: What measures each, by name.
        rounds: How often each is measured.
        warm_up: How many rounds before these do not count.

    Returns:
        The measurements of each subject.
    """
    found: dict[str, list[Sample]] = {name: [] for name in subjects}
    for number in range(-warm_up, rounds):
        names = list(subjects) if number % 2 == 0 else list(subjects)[::-1]
        for name in names:
            gc.collect()
            value = subjects[name]()
            if number >= 0:
                found[name].append(
                    value if isinstance(value, Sample) else Sample(value)
                )
    return found


def cpu_per_item(function: Callable[[], object], items: int) -> Callable[[], float]:
    """Make a measurement of *function*'s CPU, in us for each of its *items*."""

    def measure() -> float:
        began = time.process_time()
        function()
        return (time.process_time() - began) / items * 1e6

    return measure
