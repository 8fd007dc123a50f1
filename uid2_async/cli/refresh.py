"""``uid2 refresh``: ask again about what is due in a state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.bulk.options import Api
from uid2_async.cli.job_options import (
    DeltaOption,
    SendOptions,
    StateArgument,
    TalkOptions,
)
from uid2_async.cli.run_job import run_job
from uid2_async.cli.shared_options import with_shared_options

if TYPE_CHECKING:
    from uid2_async.bulk.options import JobSummary
    from uid2_async.cli.run_job import Running

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
    talk: TalkOptions,
) -> None:
    """Ask again about the identities of a state that are due.

    Due is what has reached its REFRESH_FROM; opted-out identities after 30 days and
    invalid ones after 180. An interrupted refresh goes on when it is called again.
    """

    async def job(running: Running) -> JobSummary:
        from uid2_async.bulk.jobs import refresh_state  # noqa: PLC0415 - imports aiohttp

        return await refresh_state(
            Path(state),
            client=running.client,
            delta=delta,
            api=api,
            limit=limit,
            run=running.options(sending),
        )

    raise typer.Exit(run_job(job, talk))
