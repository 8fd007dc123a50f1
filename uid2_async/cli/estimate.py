"""``uid2 estimate``: how much work a file is."""

from __future__ import annotations

import sys
from typing import Annotated

import attrs
import msgspec
import typer

from uid2_async.bulk.options import MapOptions
from uid2_async.cli.job_options import (
    BatchSizeOption,
    ConcurrencyOption,
    DeltaOption,
    FullOption,
    IdentifierOptions,
    InArgument,
    JsonOption,
    KeyOption,
    StateOption,
    TextOptions,
)
from uid2_async.cli.shared_options import with_shared_options

__all__ = ["estimate_files"]


@with_shared_options
def estimate_files(  # noqa: PLR0913 - each of them is an option
    context: typer.Context,
    source: InArgument,
    *,
    identifiers: IdentifierOptions,
    text: TextOptions,
    batch_size: BatchSizeOption = None,
    concurrency: ConcurrencyOption = 20,
    latency: Annotated[
        float,
        typer.Option(
            "--latency", min=0, help="Seconds that the operator takes for a request."
        ),
    ] = 0.5,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            min=1,
            help="Processes that share the work, a part each.",
        ),
    ] = 1,
    state: StateOption = None,
    delta: DeltaOption = None,
    keys: KeyOption = None,
    full: FullOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the requests, traffic and time of 'uid2 map'.

    It takes the options of 'uid2 map', reads the file once, and sends nothing. The size
    of a state and its daily run are estimated, too.
    """
    from uid2_async.bulk.estimate import estimate_file  # noqa: PLC0415 - --help need not wait

    found = estimate_file(
        source,
        options=MapOptions(**identifiers.settings(context), **text.settings()),
        batch_size=batch_size or 5_000,
        concurrency=concurrency,
        latency=latency,
        processes=processes,
        with_state=bool(state or delta or keys or full),
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(attrs.asdict(found)).decode() + "\n")
        return
    about = "" if found.is_exact else "about "
    lines = {
        "rows": f"{found.rows:,}",
        "identifiers": f"{found.identifiers:,}",
        "different identities": f"{about}{found.unique:,}",
        "invalid": f"{found.invalid:,}",
        "rows without any": f"{found.empty:,}",
        **{warning: f"{count:,}" for warning, count in found.input_warnings.items()},
        "requests": f"{about}{found.batches:,}",
        "minutes": f"{found.seconds / 60:.1f}, with {latency:g} s a request",
        "network": f"{_size(found.sent_bytes)} out, {_size(found.received_bytes)} in",
        "a state of them": (
            f"{_size(found.state_bytes)}, "
            f"{found.first_load_seconds / 60:.1f} minutes for the first load"
        ),
        "each day after that": (
            f"{found.daily_unique:,} due in {found.daily_batches:,} requests, "
            f"{found.daily_seconds / 60:.1f} minutes; once a week everybody"
        ),
    }
    for name, value in lines.items():
        sys.stdout.write(f"{name}: {value}\n")


def _size(count: int) -> str:
    """Write a number of bytes as people read it, in powers of ten."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
