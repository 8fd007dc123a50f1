"""A file job as a command: signals, progress, result and exit code.

People read the report on stderr; schedulers get JSON, metrics and exit codes.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs

from uid2_async.bulk.options import FileProgress, JobSummary
from uid2_async.bulk.paths import STDIO, FileFormatOptions, check_roles
from uid2_async.bulk.resume import JobFolder, job_folder_for
from uid2_async.cli.connection import Connection, run_async
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.options import OutputOptions, ProgressMode
from uid2_async.cli.output import (
    LOG,
    Failure,
    on_failure,
    print_error,
    print_json,
    print_message,
)
from uid2_async.errors import InputError
from uid2_async.hooks import CallFinished, Event

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


@attrs.define(eq=False)
class JobDisplay:
    """Shows a job's progress, and reports how it ended, including failures.

    Attributes:
        command: The name of the command.
        options: What to show, and how.
        paths: The files of the job by role. The metrics file must not be one of them.
        job_dir: The folder of the job, if it is not next to its output.
        now, sleep, clock: The monotonic clock, how to wait, and the Unix time.
        update_bar: Shows the progress in a bar, if there is one.
        requests: Requests sent, retries included.
    """

    command: str
    options: OutputOptions
    paths: Mapping[str, str | Path | None] = attrs.field(factory=dict)
    job_dir: str | None = None
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    update_bar: Callable[[FileProgress], object] | None = attrs.field(
        default=None, init=False
    )
    requests: int = attrs.field(default=0, init=False)
    _started: float = attrs.field(init=False)
    # None until checked: a rejected path is never written to.
    _metrics_file: Path | None = attrs.field(default=None, init=False)
    _last: FileProgress | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Start the clock, and check the metrics file, which is written last."""
        self._started = self.now()
        on_failure.set(self.failed)
        if self.options.metrics_file is not None:
            path = Path(self.options.metrics_file)
            _check_metrics_file(path, self.paths)
            self._metrics_file = path

    @property
    def to_stdout(self) -> bool:
        """Whether stdout carries the job's data."""
        return STDIO in (self.paths.get("OUT"), self.paths.get("--delta"))

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
        """Count requests, retries included. A hook of the client."""
        if isinstance(event, CallFinished):
            self.requests += event.attempts

    def on_progress(self, progress: FileProgress) -> None:
        """Keep the latest progress, and update the bar."""
        self._last = progress
        if self.update_bar is not None:
            self.update_bar(progress)

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[None]:
        """Print a line every PROGRESS_SECONDS while the block runs, without a bar."""
        if self.update_bar is not None or self.mode is ProgressMode.NONE:
            yield
            return

        async def print_lines() -> None:
            while True:
                await self.sleep(PROGRESS_SECONDS)
                self.print_progress()

        task = asyncio.create_task(print_lines())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def print_progress(self) -> None:
        """Print the progress in one line on stderr."""
        fields = {**self.counts(), "seconds": round(self.now() - self._started, 3)}
        if self.mode is ProgressMode.JSON:
            print_json(
                {"event": "progress", "command": self.command, **fields}, to_stderr=True
            )
            return
        print_message("info", self._sentence(), event="progress", **fields)

    def _sentence(self) -> str:
        """Describe the progress in one sentence."""
        last, seconds = self._last, self.now() - self._started
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
        """Return what has been done so far."""
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
        """Report a job that returned; *failure* says why it stopped early."""
        fields = attrs.asdict(summary, filter=lambda _, value: value is not None)
        seconds, outputs = round(summary.seconds, 3), list(map(str, summary.outputs))
        fields |= {"seconds": seconds, "outputs": outputs}
        if LOG.is_json and not (self.options.quiet or self.options.as_json):
            print_message("info", "Summary", event="summary", **fields)
        self._report(fields, code, failure)

    def failed(self, failure: Failure) -> None:
        """Report a job that raised."""
        if not (self.options.as_json and self.to_stdout):
            failure.print()
        seconds = round(self.now() - self._started, 3)
        fields = {"seconds": seconds, "outputs": [], "complete": False}
        self._report({**self.counts(), **fields}, failure.exit_code, failure)

    def resumes(self, failure: Failure | None) -> bool:
        """Return whether the same command would resume a job that stopped early.

        A job that was rejected at its start has left nothing to resume.
        """
        if failure is None or (self._last is None and not self.requests):
            return False
        target = self.paths.get("OUT")
        if target is None or self.paths.get("--state") is not None:
            return True  # a state keeps every answer
        if STDIO in (self.paths["IN"], target):
            return False
        folder = Path(self.job_dir) if self.job_dir else job_folder_for(str(target))
        return JobFolder.is_unfinished(folder)

    def _report(
        self, fields: Mapping[str, Any], code: ExitCode, failure: Failure | None
    ) -> None:
        """Print the JSON object, and write the metrics.

        If they cannot be written, the result of the job stays the same.
        """
        if self.options.as_json:
            end = {
                "resumes": self.resumes(failure),
                "exit_code": code.value,
                "error": None if failure is None else failure.as_json(),
            }
            print_json({**fields, **end}, to_stderr=self.to_stdout)
        path = self._metrics_file
        if path is None:
            return
        values = {
            **dict.fromkeys(("requests", "throttled"), 0),
            **fields,
            "duration_seconds": fields["seconds"],
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
    """Reject a metrics file that could not be written, before the job starts."""
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
    """Write the result of a job for the node exporter, whole or not at all.

    *values* are the rows by status, and each of the other metrics, by name.
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


# --- running --------------------------------------------------------------------------


def run_job(
    job: Callable[..., Awaitable[JobSummary]],
    connection: Connection,
    display: JobDisplay,
    *,
    head: tuple[str, FileFormatOptions] | None = None,
    check: Callable[[JobSummary], ExitCode] = lambda _: ExitCode.OK,
) -> ExitCode:
    """Run *job*, and print what it did.

    The first SIGINT or SIGTERM stops it cleanly, so that it can be resumed; the second
    one ends it immediately.

    Args:
        job: The job, called with *client*, *stop* and *on_progress*.
        connection: Which operator to ask.
        display: Shows the progress and reports the end.
        head: The column to show of the first rows, and how the job reads its input.
        check: Returns the exit code of a completed job without failed rows.
    """
    options = display.options
    stop = asyncio.Event()
    stopped_by: list[signal.Signals] = []

    def on_stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        stop.set()

    async def run() -> JobSummary:
        async with connection.client() as client, display.lines():
            counted = client.with_options(hooks=[*client.hooks, display.on_event])
            return await job(client=counted, stop=stop, on_progress=display.on_progress)

    if options.quiet or options.as_json or LOG.is_json:
        summary = run_async(run(), on_stop=on_stop)
    else:
        from uid2_async.cli import job_report  # noqa: PLC0415 - imports rich

        console = job_report.console_for()
        with ExitStack() as stack:
            if options.progress is ProgressMode.AUTO:
                bar = job_report.progress_bar(console, to_stdout=display.to_stdout)
                display.update_bar = stack.enter_context(bar)
            summary = run_async(run(), on_stop=on_stop)
        job_report.print_summary(console, summary)
        local = [one for one in summary.outputs[:1] if isinstance(one, Path)]
        if head is not None and summary.complete and local:
            job_report.print_first_rows(console, local[0], *head)
    failure = None if summary.complete else _interruption(stopped_by, display)
    code = failure.exit_code if failure else _exit_code(summary, check)
    display.finished(summary, code, failure)
    return code


def _interruption(stopped_by: list[signal.Signals], display: JobDisplay) -> Failure:
    """Describe a clean stop, and print it."""
    error = SystemExit() if signal.SIGTERM in stopped_by[:1] else KeyboardInterrupt()
    failure = Failure.of(error)
    hint = "Run the same command again to start over: a pipe cannot be resumed."
    if display.resumes(failure):
        hint = "Run the same command again to resume."
    failure = attrs.evolve(failure, hint=hint)
    failure.print()
    return failure


def _exit_code(
    summary: JobSummary, check: Callable[[JobSummary], ExitCode]
) -> ExitCode:
    """Return the exit code of a completed job."""
    if summary.failed:
        print_error(
            f"{summary.failed:,} rows failed: see the column ERROR.",
            "Run the command again with --force to retry them. With --state, the "
            "others are not sent again.",
        )
        return ExitCode.INCOMPLETE
    return check(summary)
