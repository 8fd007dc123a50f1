"""``uid2`` and examples in processes of their own, which start in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Self

# Each process is forked from one that has loaded what a job needs, which takes longer
# than the jobs of the tests. What it does until its end is its own.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["uid2_async.cli.map", "uid2_async.bulk.jobs", "uid2_async.client", "rich.table"]
)


class Command:
    """A running command."""

    def __init__(
        self,
        arguments: list[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        log: Path,
        script: Path | None = None,
    ) -> None:
        """Start ``uid2`` with *arguments*.

        Args:
            arguments: The arguments of ``uid2``, or of the script.
            folder: The working directory.
            env: Its environment variables, in addition to those of this process.
            log: The prefix of the files that receive stdout (.out) and stderr (.err).
            script: A program to run instead of ``uid2``. Its warnings are errors.
        """
        self._log = log
        names = {**os.environ, **env}
        task = (arguments, str(folder), names, str(log), script)
        self._process: ForkServerProcess = _CONTEXT.Process(target=_run, args=task)
        self._process.start()

    def __enter__(self) -> Self:
        """Return the command."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, if it is still running."""
        self._process.kill()
        self._process.join()
        self._process.close()

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to its process, if it is still running."""
        if self.poll() is None:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> int:
        """Return its exit code; wait for at most *timeout* seconds."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it still runs"
        return self._process.exitcode

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return Path(f"{self._log}.out").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has printed to stderr."""
        return Path(f"{self._log}.err").read_text(encoding="utf-8")


def _run(
    arguments: list[str],
    folder: str,
    env: Mapping[str, str],
    log: str,
    script: Path | None,
) -> None:
    """Be the command: in the new process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, name in ((1, "out"), (2, "err")):
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        os.dup2(os.open(f"{log}.{name}", flags, 0o600), number)
    if script is not None:
        warnings.simplefilter("error")
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
        return
    sys.argv = ["uid2", *arguments]
    from uid2_async.cli import main  # noqa: PLC0415 - only here, where it is loaded

    main()
