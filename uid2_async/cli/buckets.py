"""``uid2 buckets``: which salt buckets have rotated."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from uid2_async._printable import printable
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.printing import dump_json, print_message
from uid2_async.cli.run_async import run_async
from uid2_async.errors import InputError
from uid2_async.models import Bucket, IdentityScope

__all__ = ["list_buckets"]


class Format(StrEnum):
    """How buckets are printed."""

    JSONL = "jsonl"
    CSV = "csv"


def list_buckets(
    *,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Such as 2026-01-01T00:00; UTC unless it names a zone.",
        ),
    ],
    output: Annotated[
        Format, typer.Option("--format", help="A JSON object a line, or CSV.")
    ] = Format.JSONL,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """List the salt buckets that rotated at or after a time.

    The endpoint is past its announced end on the public service; `uid2 map` tells for
    each raw UID when to refresh it.
    """
    instant = _parse(since)
    print_message(
        "warning",
        "note: identity/buckets is deprecated; REFRESH_FROM of map replaces it.",
    )
    with warnings.catch_warnings():
        # It was said above, to whom it concerns.
        warnings.simplefilter("ignore", DeprecationWarning)
        buckets = run_async(_fetch(instant, scope, sandbox=sandbox))
    if output is Format.CSV:
        _print_csv(buckets)
    else:
        _print_jsonl(buckets)


def _parse(text: str) -> datetime:
    """Read a time; UTC where it names no zone."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None:
        raise InputError(
            "--since is no ISO 8601 time.", hint="Write it as 2026-01-01T00:00."
        )
    return instant.replace(tzinfo=instant.tzinfo or UTC)


async def _fetch(
    since: datetime, scope: IdentityScope, *, sandbox: bool
) -> list[Bucket]:
    """Ask the operator."""
    from uid2_async.cli.connection import connect  # noqa: PLC0415 - imports aiohttp

    async with connect(scope, sandbox=sandbox) as client:
        return await client.identity_buckets(since)


def _print_jsonl(buckets: Iterable[Bucket]) -> None:
    """Print a JSON object a line."""
    for one in buckets:
        fields = {"bucket_id": one.bucket_id, "last_updated": one.last_updated}
        sys.stdout.write(dump_json(fields))


def _print_csv(buckets: Iterable[Bucket]) -> None:
    """Print CSV with a header."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["bucket_id", "last_updated"])
    for one in buckets:
        time = one.last_updated.isoformat().replace("+00:00", "Z")
        writer.writerow([printable(one.bucket_id), time])
