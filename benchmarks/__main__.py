"""``python -m benchmarks [NAME ...]``: all of them, or the named ones."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "bulk_file",
    "import_time",
    "loop_lag",
    "map_cpu",
    "phones",
    "state",
    "token_codec",
)


def main(names: list[str]) -> None:
    """Run the benchmarks called *names*.

    Raises:
        SystemExit: If one of them does not exist.
    """
    for name in names or NAMES:
        if name not in NAMES:
            raise SystemExit(f"There is no benchmark {name}: {', '.join(NAMES)}")
        importlib.import_module(f"benchmarks.{name}").run()


main(sys.argv[1:])
