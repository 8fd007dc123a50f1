"""``uid2 refresh``: ask again about what is due in a state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.bulk.options import Api, RefreshOptions
from uid2_async.cli.job_display import JobDisplay
from uid2_async.cli.job_options import (
    ConnectionOptions,
    DeltaOption,
    OutputOptions,
    ReplaceOptions,
    SendOptions,
    StateArgument,
    settings_of,
)
from uid2_async.cli.run_job import run_job
from uid2_async.cli.shared_options import with_shared_options

if TYPE_CHECKING:
    from uid2_async.bulk.options import JobSummary
    from uid2_async.cli.run_job import JobContext

__all__ = ["refresh_people"]


@with_shared_options
def refresh_people(
    state: StateArgument,
    *,
    delta: DeltaOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Identities to ask about at most."),
    ] = None,
    api: Annotated[
        Api,
        typer.Option(
            "--api", help="v2: find what is due by the salt buckets that rotated."
        ),
    ] = Api.V3,
    sending: SendOptions,
    replacing: ReplaceOptions,
    output: OutputOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask again about the identities of a state that are due.

    Due is what has reached its REFRESH_FROM; opted-out identities after 30 days and
    invalid ones after 180. An interrupted refresh goes on when it is called again.
    """
    display = JobDisplay(
        command="refresh",
        options=output,
        to_stdout=delta == "-",
        paths={"STATE": state, "--delta": delta},
        is_saved=lambda: True,
    )
    options = RefreshOptions(api=api, limit=limit, **settings_of(sending, replacing))

    async def work(job: JobContext) -> JobSummary:
        from uid2_async.bulk.jobs import refresh_state  # noqa: PLC0415 - imports aiohttp

        return await refresh_state(
            Path(state),
            options=options,
            delta=delta,
            **job.arguments(),
        )

    raise typer.Exit(run_job(work, connection, display))
