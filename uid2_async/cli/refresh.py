"""``uid2 refresh``: ask again about what is due in a state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.bulk.map_options import Api
from uid2_async.cli.job_options import (
    BatchSizeOption,
    ConcurrencyOption,
    DeltaOption,
    JsonOption,
    QuietOption,
    StallOption,
    StateArgument,
)
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.run_job import JobSwitches, run_job
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.bulk.job_summary import JobSummary
    from uid2_async.cli.run_job import Running

__all__ = ["refresh_people"]


def refresh_people(  # noqa: PLR0913 - an option each
    state: StateArgument,
    *,
    delta: DeltaOption = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--most", min=1, help="Ask about so many identities at most, and end."
        ),
    ] = None,
    api: Annotated[
        Api,
        typer.Option(
            "--api", help="v2: find what is due by the salt buckets that rotated."
        ),
    ] = Api.V3,
    batch_size: BatchSizeOption = None,
    concurrency: ConcurrencyOption = 20,
    stall_timeout: StallOption = 120.0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Ask again about the identities of a state that are due.

    Due is what has reached its REFRESH_FROM; opted-out identities after 30 days and
    invalid ones after 180. An interrupted refresh goes on when it is called again.
    """

    async def job(running: Running) -> JobSummary:
        from uid2_async.bulk.refresh import refresh_state  # noqa: PLC0415 - imports aiohttp

        return await refresh_state(
            Path(state),
            client=running.client,
            delta=delta,
            api=api,
            most=most,
            run=running.options(
                batch_size=batch_size,
                concurrency=concurrency,
                stall_timeout=stall_timeout,
            ),
        )

    switches = JobSwitches(quiet=quiet, as_json=as_json, sandbox=sandbox, scope=scope)
    raise typer.Exit(run_job(job, switches))
