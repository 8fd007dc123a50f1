"""Running a job on files as a command: signals, the bar, the summary, the exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from uid2_async.cli.failure import ExitCode, complain
from uid2_async.cli.job_options import TalkOptions
from uid2_async.cli.run_async import run_async

if TYPE_CHECKING:
    from uid2_async.bulk.options import FileProgress, JobSummary
    from uid2_async.bulk.paths import FileFormatOptions
    from uid2_async.client import UID2Client

__all__ = ["Running", "run_job"]


@attrs.frozen(kw_only=True)
class Running:
    """What a job is given.

    Attributes:
        client: Who asks.
        stop: Set when the user wants the job to end in order.
        tell: Is to be told how far it is.
    """

    client: UID2Client
    stop: asyncio.Event
    tell: Callable[[FileProgress], object]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that every job takes."""
        return {
            "client": self.client,
            "stop": self.stop,
            "on_progress": self.tell,
        }


def run_job(
    job: Callable[[Running], Awaitable[JobSummary]],
    talk: TalkOptions,
    *,
    to_stdout: bool = False,
    head: tuple[str, FileFormatOptions] | None = None,
    check: Callable[[JobSummary], ExitCode] = lambda _: ExitCode.OK,
) -> ExitCode:
    """Run *job*, and print what it did.

    The first Ctrl-C lets it end in order, so that it can be resumed; the second one
    ends it at once.

    Args:
        job: What is to be done.
        talk: Whom to talk to.
        to_stdout: Whether stdout carries the data.
        head: The column to show of the first rows, and how the job reads its input;
            None to show none.
        check: Says how a command ends whose job is done and has no failed rows.
    """
    from uid2_async.cli import job_report  # noqa: PLC0415 - --help need not wait

    console = job_report.console_for(quiet=talk.quiet or talk.as_json)
    with job_report.progress_bar(console, to_stdout=to_stdout) as tell:
        stop = asyncio.Event()
        summary = run_async(_connected(job, talk, stop, tell), on_interrupt=stop.set)
    if talk.as_json:
        job_report.print_json(summary, to_stdout=to_stdout)
    job_report.print_summary(console, summary)
    if head is not None and summary.complete:
        for output in summary.outputs[:1]:
            job_report.print_head(console, output, *head)
    return _ending(summary, check)


async def _connected(
    job: Callable[[Running], Awaitable[JobSummary]],
    talk: TalkOptions,
    stop: asyncio.Event,
    tell: Callable[[FileProgress], object],
) -> JobSummary:
    """Run *job* with a client."""
    from uid2_async.cli.connection import connect  # noqa: PLC0415 - imports aiohttp

    async with connect(talk.scope, sandbox=talk.sandbox) as client:
        return await job(Running(client=client, stop=stop, tell=tell))


def _ending(summary: JobSummary, check: Callable[[JobSummary], ExitCode]) -> ExitCode:
    """Say how the command ends."""
    if not summary.complete:
        complain(
            "Interrupted.",
            "Run the same command again: a job on files goes on where it was.",
        )
        return ExitCode.INTERRUPTED
    if summary.failed:
        complain(
            f"{summary.failed:,} rows could not be asked about: see the column ERROR.",
            "Run the command again for them; with --state, the others are not sent.",
        )
        return ExitCode.INCOMPLETE
    return check(summary)
