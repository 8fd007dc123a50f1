"""The command line ``uid2``; it needs the extra ``cli`` (typer and rich)."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say in one line how to install what it needs."""
    if any(find_spec(name) is None for name in ("typer", "rich")):
        sys.stderr.write(
            "uid2: The command line is not installed: pip install 'uid2-async[cli]'\n"
        )
        raise SystemExit(1)
    from uid2_async.cli.app import app  # noqa: PLC0415 - typer may be missing

    app(prog_name="uid2")
