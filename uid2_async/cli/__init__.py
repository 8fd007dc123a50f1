"""The command line ``uid2``; it needs the extra ``cli`` (typer and rich).

- ``app``: the command tree. ``options``: the options that commands share.
- ``map`` has the file jobs, ``job`` runs them, and ``job_report`` shows their output.
- ``rows``, ``state``, ``token``, ``keys``, ``doctor`` and
  ``sandbox`` have the other commands.
- ``connection``: the operator to call. ``values``: values from arguments, files and
  stdin. ``output``: messages and failures. ``exit_codes``: for schedulers.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, or print how to install what it needs."""
    if any(find_spec(name) is None for name in ("typer", "rich")):
        sys.stderr.write(
            "uid2: The command line is not installed: pip install 'uid2-async[cli]'\n"
        )
        raise SystemExit(1)
    from uid2_async.cli.app import app  # noqa: PLC0415 - typer may be missing

    app(prog_name="uid2")
