"""``uid2 map``: raw UIDs for a file of identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TextIO

import attrs
import typer

from uid2_async.cli.options import Kind, SandboxOption, ScopeOption
from uid2_async.cli.run_async import run_async
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.cli.csv_rows import Columns, CsvRows
    from uid2_async.cli.map_csv import MapProgress, MapSummary

__all__ = ["map_file"]


def map_file(
    *,
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="A CSV file with a header; - is stdin."),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="OUT", help="The CSV file to write; - is stdout."),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="The column with the identities; INPUT by default.",
        ),
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--type",
            help="What the identities are; by default the column INPUT_TYPE tells it "
            "for each row.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace OUT if it exists.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")
    ] = False,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Map a CSV file of e-mails, phones or hashes of them to raw UIDs.

    Every row and column is kept, in order; UID, PREV_UID, REFRESH_FROM (seconds since
    1970) and UNMAPPED are appended. UNMAPPED is empty for a mapped row, else OPTOUT,
    INVALID IDENTIFIER or INVALID INPUT TYPE. OUT is readable by its owner alone, and
    appears when it is whole; a failed job leaves nothing behind.
    """
    # Imported here, since --help need not wait for aiohttp.
    from uid2_async.cli import csv_files, csv_rows, map_report  # noqa: PLC0415 - above
    from uid2_async.cli.map_csv import OUTPUT_COLUMNS  # noqa: PLC0415 - above

    console = map_report.console_for(quiet=quiet)
    with csv_files.open_source(source) as stream:
        csv_files.check_target(target, source=source, force=force)
        rows = csv_rows.CsvRows(stream, name="stdin" if source == "-" else source)
        columns = csv_rows.find_columns(
            rows.header, column=column, kind=kind, added=OUTPUT_COLUMNS
        )
        with (
            csv_files.open_target(target) as out,
            map_report.progress_bar(
                console, total_bytes=csv_files.size_of(source), to_stdout=target == "-"
            ) as tell,
        ):
            job = _Job(rows=rows, columns=columns, out=out, tell=tell)
            summary, requests = run_async(job.run(scope, sandbox=sandbox))
    map_report.print_summary(console, summary, requests=requests)
    map_report.print_head(console, summary.head, columns)


@attrs.frozen(kw_only=True)
class _Job:
    """A file that is ready to be mapped."""

    rows: CsvRows
    columns: Columns
    out: TextIO
    tell: Callable[[MapProgress], object]

    async def run(
        self, scope: IdentityScope, *, sandbox: bool
    ) -> tuple[MapSummary, int]:
        """Map it; return what was done and how many requests it took."""
        from uid2_async.cli.connection import (  # noqa: PLC0415 - imports aiohttp
            RequestCount,
            connect,
        )
        from uid2_async.cli.map_csv import map_csv  # noqa: PLC0415 - imports aiohttp

        count = RequestCount()
        async with connect(scope, sandbox=sandbox) as client:
            summary = await map_csv(
                self.rows,
                self.columns,
                self.out,
                client=client.with_options(hooks=[count]),
                on_progress=self.tell,
            )
        return summary, count.requests
