"""What a job says while it runs and when it ends, to people and to schedulers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from uid2_async.bulk.options import FileProgress, JobSummary
from uid2_async.bulk.paths import check_roles
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import Failure, on_failure, print_error
from uid2_async.cli.job_options import OutputOptions, ProgressMode
from uid2_async.cli.printing import LOG, print_json, print_message
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from uid2_async.hooks import Event

__all__ = ["PROGRESS_SECONDS", "JobDisplay"]

PROGRESS_SECONDS: Final = 30.0

_PHASES: Final = {"reading": "Reading", "asking": "Asking", "writing": "Mapping"}
_ENDINGS: Final = ("mapped", "opted_out", "invalid", "empty", "other", "failed")
_METRICS: Final = {
    "requests": "Requests of the last run, retries included.",
    "throttled": "Times the operator asked the last run to slow down.",
    "duration_seconds": "Duration of the last run in seconds.",
    "exit_code": "Exit code of the last run.",
    "end_time_seconds": "When the last run ended, in Unix time.",
}
_NOT_COUNTS: Final = ("seconds", "outputs", "complete")


@attrs.define(eq=False)
class JobDisplay:
    """Shows a job's progress, and reports how it ended, whichever way.

    Attributes:
        command: The name of the command.
        options: What is shown, and how.
        to_stdout: Whether stdout carries the job's data.
        paths: The files of the job by role, so that metrics replace none of them.
        is_saved: Returns whether the same command would resume the job.
        now: Returns seconds of a monotonic clock.
        sleep: Waits for a number of seconds.
        clock: Returns the Unix time.
    """

    command: str
    options: OutputOptions
    to_stdout: bool = False
    paths: Mapping[str, str | Path | None] = attrs.field(factory=dict)
    is_saved: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    requests: int = attrs.field(default=0, init=False)
    _began: float = attrs.field(init=False)
    # None until it was checked: a path that is refused is not written to.
    _metrics_file: Path | None = attrs.field(default=None, init=False)
    _last: FileProgress | None = attrs.field(default=None, init=False)
    _update_bar: Callable[[FileProgress], object] = attrs.field(
        default=lambda _: None, init=False
    )

    def __attrs_post_init__(self) -> None:
        """Start the clock, and check what is due at the end."""
        self._began = self.now()
        on_failure.set(self.failed)
        if self.options.metrics_file is not None:
            path = Path(self.options.metrics_file)
            _check_metrics_file(path, self.paths)
            self._metrics_file = path

    @property
    def mode(self) -> ProgressMode:
        """How progress is shown; never ``auto``."""
        options = self.options
        if options.progress is not ProgressMode.AUTO:
            return options.progress
        if options.quiet or (options.as_json and self.to_stdout):
            return ProgressMode.NONE
        return ProgressMode.JSON if LOG.is_json else ProgressMode.PLAIN

    # --- while it runs ----------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Count requests, retries included: a hook of the client."""
        from uid2_async.hooks import CallFinished  # noqa: PLC0415 - --help need not wait

        if isinstance(event, CallFinished):
            self.requests += event.attempts

    def on_progress(self, progress: FileProgress) -> None:
        """Take notice of the job's progress."""
        self._last = progress
        self._update_bar(progress)

    @contextmanager
    def bar(self, console: Console) -> Iterator[bool]:
        """Show a bar while the block runs, if stderr is a terminal; yield if it is."""
        from uid2_async.cli.job_report import progress_bar  # noqa: PLC0415 - --help need not wait for rich

        if self.options.progress is not ProgressMode.AUTO:
            yield False
            return
        with progress_bar(console, to_stdout=self.to_stdout) as update:
            self._update_bar = update or self._update_bar
            yield update is not None

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[None]:
        """Print a line every PROGRESS_SECONDS while the block runs."""
        task = asyncio.create_task(self._print_lines())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _print_lines(self) -> None:
        while self.mode is not ProgressMode.NONE:
            await self.sleep(PROGRESS_SECONDS)
            self.print_progress()

    def print_progress(self) -> None:
        """Print how far the job is, in one line of stderr."""
        fields = {**self.counts(), "seconds": round(self.now() - self._began, 3)}
        if self.mode is ProgressMode.JSON:
            print_json(
                {"event": "progress", "command": self.command, **fields},
                to_stderr=True,
            )
            return
        print_message("info", self._sentence(), event="progress", **fields)

    def _sentence(self) -> str:
        """Say how far the job is."""
        last, seconds = self._last, self.now() - self._began
        if last is None:
            return f"Starting: {self.requests:,} requests after {seconds:.0f} s"
        share = (
            f" ({last.bytes_read / last.total_bytes:.0%})" if last.total_bytes else ""
        )
        counts = [
            f"{name.replace('_', ' ')} {last.endings[name]:,}"
            for name in _ENDINGS
            if last.endings.get(name)
        ]
        facts = [
            f"{last.rows:,} rows{share}",
            f"{last.rows / seconds:,.0f}/s" if seconds else "-",
            *counts,
            f"{self.requests:,} requests",
            f"{last.job.in_flight}/{last.job.limit} in flight",
        ]
        if last.job.throttled:
            facts.append(f"{last.job.throttled:,} x 429")
        return f"{_PHASES.get(last.phase, last.phase)}: {', '.join(facts)}"

    # --- when it ends -----------------------------------------------------------------

    def counts(self) -> dict[str, Any]:
        """Return what was done so far."""
        last = self._last
        if last is None:
            return {"phase": "starting", "rows": 0, "requests": self.requests}
        return {
            "phase": last.phase,
            "rows": last.rows,
            **{name: last.endings.get(name, 0) for name in _ENDINGS},
            "requests": self.requests,
            "throttled": last.job.throttled,
        }

    def finished(
        self, summary: JobSummary, code: ExitCode, failure: Failure | None = None
    ) -> None:
        """Report the end of a job that returned.

        Args:
            summary: What it did.
            code: How the command ends.
            failure: Why it stopped early, if it did.
        """
        fields = attrs.asdict(summary)
        counts = {
            name: count
            for name, count in fields.items()
            if name not in _NOT_COUNTS and count is not None
        }
        self._report(
            counts,
            code,
            failure,
            seconds=summary.seconds,
            outputs=[str(path) for path in summary.outputs],
            complete=summary.complete,
        )

    def failed(self, failure: Failure) -> None:
        """Report the end of a job that raised."""
        if not (self.options.as_json and self.to_stdout):
            failure.print()
        seconds = self.now() - self._began
        self._report(self.counts(), failure.exit_code, failure, seconds=seconds)

    def resumes(self, failure: Failure | None) -> bool:
        """Return whether the same command would resume a job that stopped early.

        A job that is refused at its start is refused again.
        """
        if failure is None or failure.exit_code is ExitCode.USAGE:
            return False
        has_begun = self._last is not None or self.requests > 0
        return has_begun and self.is_saved()

    def _report(
        self,
        counts: Mapping[str, Any],
        code: ExitCode,
        failure: Failure | None,
        *,
        seconds: float,
        outputs: list[str] | None = None,
        complete: bool = False,
    ) -> None:
        """Print the JSON object, and write the metrics."""
        if self.options.as_json:
            fields = {
                **counts,
                "seconds": round(seconds, 3),
                "outputs": outputs or [],
                "complete": complete,
                "resumes": self.resumes(failure),
                "exit_code": code.value,
                "error": None if failure is None else failure.as_json(),
            }
            print_json(fields, to_stderr=self.to_stdout)
        if self._metrics_file is not None:
            self._write_metrics(self._metrics_file, counts, seconds, code)

    def _write_metrics(
        self, path: Path, counts: Mapping[str, Any], seconds: float, code: ExitCode
    ) -> None:
        """Write the metrics; that they cannot be written does not change the job."""
        values = {
            **dict.fromkeys(("requests", "throttled"), 0),
            **counts,
            "duration_seconds": seconds,
            "exit_code": code.value,
            "end_time_seconds": self.clock(),
        }
        try:
            write_metrics(path, self.command, values)
        except OSError as error:
            why = error.strerror or type(error).__name__
            print_error(f"warning: The metrics file {path} cannot be written: {why}.")


# --- metrics --------------------------------------------------------------------------


def _check_metrics_file(path: Path, others: Mapping[str, str | Path | None]) -> None:
    """Reject a metrics file that could not be written, before the job starts.

    Raises:
        InputError: If the extra is missing, or the path is wrong.
    """
    try:
        import prometheus_client  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise InputError(
            "--metrics-file requires prometheus-client.",
            hint="Install it: pip install 'uid2-async[metrics]'",
        ) from None
    if path.suffix != ".prom":
        raise InputError(
            "The name of the metrics file must end in .prom.",
            hint="The node exporter's textfile collector reads no other files.",
        )
    if not path.parent.is_dir():
        raise InputError(
            f"The folder {path.parent} of the metrics file does not exist.",
            hint="Create it, or correct --metrics-file.",
        )
    roles = {name: Path(one) for name, one in others.items() if one not in (None, "-")}
    check_roles({**roles, "--metrics-file": path})


def write_metrics(path: Path, command: str, values: Mapping[str, Any]) -> None:
    """Write how a job ended for the node exporter, whole or not at all.

    Args:
        path: The file; it is replaced.
        command: The value of the label ``command``.
        values: The rows by status, and each of the other metrics, by name.

    Raises:
        OSError: If the file cannot be written.
    """
    from prometheus_client import (  # noqa: PLC0415 - an extra
        CollectorRegistry,
        Gauge,
        write_to_textfile,
    )

    registry = CollectorRegistry()
    text = "Rows of the last run by status."
    rows = Gauge("uid2_job_rows", text, ["command", "status"], registry=registry)
    for name in _ENDINGS:
        rows.labels(command, name).set(values.get(name, 0))
    for name, text in _METRICS.items():
        gauge = Gauge(f"uid2_job_{name}", text, ["command"], registry=registry)
        gauge.labels(command).set(values[name])
    write_to_textfile(str(path), registry)
