"""``uid2 map``: raw UIDs for a file of identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.cli.options import Kind, SandboxOption, ScopeOption
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from rich.console import Console

    from uid2_async.cli.csv_rows import Columns, CsvRows
    from uid2_async.cli.map_csv import MapSummary

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
    from rich.console import Console  # noqa: PLC0415 - as below

    # What follows imports aiohttp, which --help need not wait for.
    from uid2_async.cli import csv_files, csv_rows, map_csv  # noqa: PLC0415 - as above

    with csv_files.open_source(source) as stream:
        csv_files.check_target(target, source=source, force=force)
        rows = csv_rows.CsvRows(stream, name="stdin" if source == "-" else source)
        columns = csv_rows.find_columns(
            rows.header,
            column=column,
            kind=kind,
            added=map_csv.OUTPUT_COLUMNS,
        )
        console = Console(stderr=True, quiet=quiet, highlight=False)
        with csv_files.open_target(target) as out:
            ...
