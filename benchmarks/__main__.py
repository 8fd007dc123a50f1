"""``python -m benchmarks [NAME ...]``: all of them, or the named ones."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.runner import Effort, Table, baseline
from benchmarks.runner.page import replace_part
from benchmarks.runner.plot import draw
from benchmarks.runner.text import for_page, for_terminal

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BASELINE = HERE / "baseline.json"
PAGE = HERE.parent / "docs" / "performance.md"
PLOTS = HERE.parent / "docs" / "performance"

NAMES = (
    "map_cpu",
    "map_throughput",
    "bulk_file",
    "state",
    "token_codec",
    "loop_lag",
    "import_time",
    "hash",
    "operator",
    "call_overhead",
    "concurrency",
)
# These compare CPU time, which a busy machine hardly changes.
QUICK = ("import_time", "map_cpu", "token_codec")
# How much worse than the committed ratio is allowed, on top of the spread: on a machine
# of its own; and on one of any kind, in a minute.
MARGIN = 0.1
QUICK_MARGIN = 0.5


def main() -> None:
    """Run what the arguments ask for.

    Raises:
        SystemExit: If ``--check`` finds a line that is worse than it was.
    """
    asked = read_arguments()
    effort = Effort.QUICK if asked.quick else Effort.NORMAL
    effort = Effort.FULL if asked.full else effort
    kept = baseline.read(BASELINE.read_bytes()) if BASELINE.exists() else {}
    worse: list[baseline.Worse] = []
    for name in asked.names or (QUICK if asked.quick else NAMES):
        tables = run(name, effort)
        if asked.check:
            worse += check(name, effort, tables, kept)
        elif not asked.quick:
            publish(name, tables)
        if asked.accept:
            kept[name] = baseline.ratios(tables)
            BASELINE.write_bytes(baseline.write(kept))
    if worse:
        raise SystemExit("\n".join(["\nWorse than baseline.json:", *map(str, worse)]))


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="take about a minute")
    parser.add_argument("--full", action="store_true", help="10 M rows where it counts")
    parser.add_argument(
        "--check", action="store_true", help="compare with baseline.json; write nothing"
    )
    parser.add_argument(
        "--accept", action="store_true", help="make these ratios the baseline"
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - set(NAMES)
    if unknown:
        parser.error(f"There is no benchmark {', '.join(sorted(unknown))}.")
    return asked


def run(name: str, effort: Effort) -> list[Table]:
    """Run a benchmark and print each table as it comes."""
    module = importlib.import_module(f"benchmarks.{name}")
    tables = []
    for table in module.run(effort):
        print(for_terminal(name, table), flush=True)
        tables.append(table)
    return tables


def check(
    name: str, effort: Effort, tables: Sequence[Table], kept: baseline.Baseline
) -> list[baseline.Worse]:
    """List what is worse than it was, twice in a row: once may be the machine."""
    margin = QUICK_MARGIN if effort is Effort.QUICK else MARGIN
    worse = baseline.find_worse(name, tables, kept, margin)
    if worse:
        print("\nThat is worse than baseline.json. Once more:")
        worse = baseline.find_worse(name, run(name, effort), kept, margin)
    return worse


def publish(name: str, tables: Sequence[Table]) -> None:
    """Write the tables as JSON, as a plot and into docs/performance.md."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.encode(tables))
    draw(tables, PLOTS / f"{name}.svg")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_part(page, name, for_page(name, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()
