"""Running a job on files as a command: signals, progress, summary, exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import Failure, print_error
from uid2_async.cli.job_options import ConnectionOptions
from uid2_async.cli.run_async import run_async

if TYPE_CHECKING:
    from uid2_async.bulk.options import FileProgress, JobSummary
    from uid2_async.bulk.paths import FileFormatOptions
    from uid2_async.cli.job_display import JobDisplay
    from uid2_async.client import UID2Client

__all__ = ["JobContext", "is_saved", "run_job"]


@attrs.frozen(kw_only=True)
class JobContext:
    """What a job is given.

    Attributes:
        client: The client that asks the operator.
        stop: Set when the user wants the job to stop cleanly.
        on_progress: Called with the progress.
    """

    client: UID2Client
    stop: asyncio.Event
    on_progress: Callable[[FileProgress], object]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that every job takes."""
        return {
            "client": self.client,
            "stop": self.stop,
            "on_progress": self.on_progress,
        }


def run_job(
    job: Callable[[JobContext], Awaitable[JobSummary]],
    connection: ConnectionOptions,
    display: JobDisplay,
    *,
    head: tuple[str, FileFormatOptions] | None = None,
    check: Callable[[JobSummary], ExitCode] = lambda _: ExitCode.OK,
) -> ExitCode:
    """Run *job*, and print what it did.

    The first SIGINT or SIGTERM lets it stop cleanly, so that it can be resumed; the
    second one ends it immediately.

    Args:
        job: What is to be done.
        connection: Which operator to ask.
        display: Shows the progress and reports the end.
        head: The column to show of the first rows, and how the job reads its input;
            None to show none.
        check: Returns the exit code of a job that is done and has no failed rows.
    """
    from uid2_async.cli import job_report  # noqa: PLC0415 - --help need not wait for rich

    options = display.options
    console = job_report.console_for(quiet=options.quiet or options.as_json)
    stop = asyncio.Event()
    stopped_by: list[signal.Signals] = []

    def on_stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        stop.set()

    with display.bar(console) as has_bar:
        work = _run(job, connection, display, stop, with_lines=not has_bar)
        summary = run_async(work, on_stop=on_stop)
    job_report.print_summary(console, summary)
    if head is not None and summary.complete:
        for output in summary.outputs[:1]:
            if isinstance(output, str):  # not on this machine
                break
            job_report.print_head(console, output, *head)
    failure = None if summary.complete else _interruption(stopped_by, display)
    code = failure.exit_code if failure else _exit_code(summary, check)
    display.finished(summary, code, failure)
    return code


async def _run(
    job: Callable[[JobContext], Awaitable[JobSummary]],
    connection: ConnectionOptions,
    display: JobDisplay,
    stop: asyncio.Event,
    *,
    with_lines: bool,
) -> JobSummary:
    """Run *job* with a client, and print lines of progress."""
    from uid2_async.cli.connection import connect  # noqa: PLC0415 - imports aiohttp

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            connect(connection.scope, sandbox=connection.sandbox)
        )
        if with_lines:
            await stack.enter_async_context(display.lines())
        counted = client.with_options(hooks=[*client.hooks, display.on_event])
        context = JobContext(client=counted, stop=stop, on_progress=display.on_progress)
        return await job(context)


def _interruption(stopped_by: list[signal.Signals], display: JobDisplay) -> Failure:
    """Describe a job that stopped cleanly, and print it."""
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
    """Return how the command of a job ends that is done."""
    if summary.failed:
        print_error(
            f"{summary.failed:,} rows could not be asked about: see the column ERROR.",
            "Run the command again for them; with --state, the others are not sent.",
        )
        return ExitCode.INCOMPLETE
    return check(summary)


def is_saved(
    source: str, target: str, state: str | Path | None, folder: str | None
) -> bool:
    """Return whether a later run of the same command finds what this one has done.

    Args:
        source: The input, or ``-``.
        target: The output, or ``-``.
        state: The state, which keeps every answer.
        folder: The job's folder; by default beside the output.
    """
    from uid2_async.bulk.resume import JobFolder, job_folder_for  # noqa: PLC0415 - --help need not wait

    if state is not None:
        return True
    if "-" in (source, target):
        return False
    return JobFolder.is_begun(Path(folder) if folder else job_folder_for(target))
