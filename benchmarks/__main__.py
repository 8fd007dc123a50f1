"""``python -m benchmarks [NAME ...]``: all of them, or the named ones."""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.runner import Effort, Table, baseline, summary
from benchmarks.runner.page import replace_part
from benchmarks.runner.plot import draw
from benchmarks.runner.text import for_page, for_terminal

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BASELINE = HERE / "baseline.json"
PAGE = HERE.parent / "docs" / "performance.md"
LANDING = HERE.parent / "docs" / "index.md"
PLOTS = HERE.parent / "docs" / "performance"

NAMES = (
    "map_cpu",
    "map_rows",
    "map_throughput",
    "bulk_file",
    "frames",
    "state",
    "token_codec",
    "loop_lag",
    "phones",
    "import_time",
    "hash",
    "operator",
    "call_overhead",
    "concurrency",
    "blocking",
    "java_sdk",
    "memory",
)
# These compare CPU time, which a busy machine hardly changes.
QUICK = ("import_time", "map_cpu", "map_rows", "token_codec")
# How much worse than the committed ratio is allowed, on top of the spread: on a machine
# of its own; and on one of any kind, in a minute.
MARGIN = 0.1
QUICK_MARGIN = 0.5


def main() -> None:
    """Run what the arguments ask for.

    Raises:
        SystemExit: If a benchmark has failed, or ``--check`` finds a line that is worse
            than it was.
    """
    asked = read_arguments()
    effort = Effort.QUICK if asked.quick else Effort.NORMAL
    effort = Effort.FULL if asked.full else effort
    kept = baseline.read(BASELINE.read_bytes()) if BASELINE.exists() else {}
    complaints: list[str] = []
    for name in asked.names or (QUICK if asked.quick else NAMES):
        try:
            tables = run(name, effort)
        except Exception:  # noqa: BLE001 - the others are measured all the same
            traceback.print_exc()
            complaints.append(f"{name} has failed.")
            continue
        if not tables:
            continue  # What it compares with is not installed, as it has said.
        if asked.check:
            complaints += check(name, effort, tables, kept)
        elif not asked.quick:
            publish(name, tables)
        if asked.accept:
            kept[name] = baseline.ratios(tables)
            BASELINE.write_bytes(baseline.write(kept))
    if not (asked.check or asked.quick):
        publish_summary()
    if complaints:
        raise SystemExit("\n".join(["", *complaints]))


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
    began = time.monotonic()
    for table in module.run(effort):
        print(for_terminal(name, table), flush=True)
        tables.append(table)
    print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    return tables


def check(
    name: str, effort: Effort, tables: Sequence[Table], kept: baseline.Baseline
) -> list[str]:
    """Say what is worse than it was, twice in a row: once may be the machine."""
    if name not in kept:
        return [f"{name} is not in baseline.json: run it with --accept."]
    margin = QUICK_MARGIN if effort is Effort.QUICK else MARGIN
    worse = baseline.find_worse(name, tables, kept, margin)
    if worse:
        print("\nThat is worse than baseline.json. Once more:")
        worse = baseline.find_worse(name, run(name, effort), kept, margin)
    return [f"Worse than baseline.json: {one}" for one in worse]


def publish(name: str, tables: Sequence[Table]) -> None:
    """Write the tables as JSON, as a plot and into docs/performance.md."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.encode(tables))
    draw(tables, PLOTS / f"{name}.svg")
    write_part(PAGE, name, for_page(name, tables))


def publish_summary() -> None:
    """Write the few figures of the landing page, if all of them are known."""
    results = summary.read_results(RESULTS)
    if results is None:
        print("\nThe landing page's table waits for a run of all benchmarks.")
        return
    draw([summary.speeds(results)], PLOTS / "summary.svg")
    write_part(LANDING, "summary", summary.summary_text(results))
    write_part(PAGE, "machine", summary.machine())


def write_part(path: Path, name: str, text: str) -> None:
    """Write the part of a page that is marked with *name*."""
    page = path.read_text(encoding="utf-8")
    path.write_text(replace_part(page, name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
