"""The runner: measures in turn, and says what came of it.

A benchmark is a module with one bare function, ``run(effort)``, that yields tables.
"""

from benchmarks.runner.measuring import (
    Better,
    Effort,
    Measure,
    Sample,
    Spread,
    Table,
    cpu_per_item,
    interleave,
)

__all__ = [
    "Better",
    "Effort",
    "Measure",
    "Sample",
    "Spread",
    "Table",
    "cpu_per_item",
    "interleave",
]
