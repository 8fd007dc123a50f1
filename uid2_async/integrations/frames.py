"""DataFrames: returns a frame with added columns of raw UIDs.

Only the columns with identifiers are converted to Arrow. They are mapped by the engine
of :func:`~uid2_async.map_file`. The frame itself is not converted: the new columns are
appended to it, so that its index and its column types are kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from uid2_async._portal import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.columns import (
    KIND_NAME,
    VALUE_NAME,
    OutcomeColumns,
    find_column,
)
from uid2_async.bulk.jobs import map_table
from uid2_async.bulk.options import FileProgress, MapOptions
from uid2_async.errors import InputError
from uid2_async.integrations._frame_kinds import NAME, load_frames, open_frame
from uid2_async.integrations.arrow import OutcomeBuffer
from uid2_async.models import Identity, MapRow, kind_and_value

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from uid2_async.bulk.state import MappingState
    from uid2_async.client import UID2Client

__all__ = ["map_frame"]

F = TypeVar("F")
T = TypeVar("T")


async def map_frame(  # noqa: PLR0913 - each describes one aspect of the frame or the job
    frame: F,
    *,
    client: UID2Client,
    email: Hashable | None = None,
    phone: Hashable | None = None,
    email_hash: Hashable | None = None,
    phone_hash: Hashable | None = None,
    column: Hashable | None = None,
    type_column: Hashable | None = None,
    country: str | None = None,
    country_column: Hashable | None = None,
    options: MapOptions | None = None,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[FileProgress], object] = False,
) -> F:
    """Map the identifiers in a DataFrame.

    The result has the same rows, index and columns, followed by UID, PREV_UID,
    REFRESH_FROM (a timestamp in UTC), UNMAPPED and ERROR, like the files of
    :func:`~uid2_async.map_file`. With several identifiers, it also has MATCHED_TYPE.
    The frame that was passed is not changed.

    Missing values (None, NaN, NaT, ``pandas.NA``) and empty strings count as missing
    identifiers.

    Args:
        frame: A DataFrame of pandas, polars or another library that narwhals supports,
            a LazyFrame of polars (which is collected), a relation of DuckDB, or a
            pyarrow Table, RecordBatch or RecordBatchReader. Any other object with
            ``__arrow_c_stream__`` is returned as its own type if that has a method
            ``from_arrow``, or else as a pyarrow Table. A RecordBatchReader is read as a
            stream, and its result is stored in a private temporary file.
        client: The client that calls the operator.
        email: The column with email addresses. If several of these four are passed,
            they are in order of preference, as with ``MapOptions(identifiers=...)``:
            email, phone, email_hash, phone_hash.
        phone: The column with phone numbers.
        email_hash: The column with hashes of email addresses.
        phone_hash: The column with hashes of phone numbers.
        column: Instead of these four, the column with identifiers of several types.
            Defaults to ``INPUT``.
        type_column: The column with the type of each identifier. Defaults to
            ``INPUT_TYPE``.
        country: The two-letter country code for phone numbers in national format.
            Requires the extra ``phone``.
        country_column: The column with the country code of each row.
        options: Options of the mapping and of the job. Options for files are ignored.
        state: Stores results between calls, so that only new and stale identities are
            asked about. If it is not open, it is opened for the call.
        delta: The file for the changes since the last delta. Requires *state*.
        progress: Whether to show a progress bar, if tqdm is installed. Alternatively, a
            function to call with the progress.

    Returns:
        The frame with its new columns.

    Raises:
        InputError: If *frame* is not a DataFrame, a column is missing or is not text, a
            new column already exists, the frame cannot be extended, or the extra
            ``frames`` is not installed.
        ConfigError: If an option is not valid.
        AuthError: If the API key or secret is rejected.
        StalledError: If no request succeeded for the job's stall_timeout.
        JobError: If the state is in use, or a disk is full.

    Example:
        >>> out = await map_frame(df, email="mail", client=client)
    """
    opened = await run_in_thread(
        partial(open_frame, frame, rereadable=state is not None)
    )
    identifiers = {
        "email": email,
        "phone": phone,
        "email_hash": email_hash,
        "phone_hash": phone_hash,
    }
    if not opened.labels:
        raise InputError("The frame has no columns.")
    chosen = _choose_columns(
        opened.header,
        opened.labels,
        options or MapOptions(),
        identifiers={kind: one for kind, one in identifiers.items() if one is not None},
        column=column,
        type_column=type_column,
        country=country,
        country_column=country_column,
    )
    opened.explode = chosen.explode
    with _reporting(progress, opened.rows) as on_progress:
        await map_table(
            opened,
            client=client,
            options=chosen,
            state=state,
            delta=delta,
            on_progress=on_progress,
        )
    result: F = await run_in_thread(opened.result)
    return result


def to_arrow(identities: Sequence[Identity | str], rows: Sequence[MapRow]) -> pa.Table:
    """Return the results of a call as a table. See IdentityMap.

    The columns are INPUT, INPUT_TYPE and those of :func:`map_frame`.
    """
    arrow, _ = load_frames()
    pairs = list(map(kind_and_value, identities))
    batch = arrow.RecordBatch.from_pydict(
        {
            VALUE_NAME: arrow.array([value for _, value in pairs], "string"),
            KIND_NAME: arrow.array([kind for kind, _ in pairs], "string"),
        }
    )
    buckets = any(row.bucket_id is not None for row in rows)
    outcomes = OutcomeBuffer(OutcomeColumns(buckets=buckets))
    outcomes.append(rows)
    return arrow.Table.from_batches([outcomes.take(batch)])


def to_pandas(
    identities: Sequence[Identity | str], rows: Sequence[MapRow]
) -> pd.DataFrame:
    """Return the same as :func:`to_arrow`, as a pandas DataFrame."""
    _load("pandas")
    return to_arrow(identities, rows).to_pandas()


def to_polars(
    identities: Sequence[Identity | str], rows: Sequence[MapRow]
) -> pl.DataFrame:
    """Return the same as :func:`to_arrow`, as a polars DataFrame."""
    frame: pl.DataFrame = _load("polars").from_arrow(to_arrow(identities, rows))
    return frame


def _load(module: str) -> Any:
    """Import a DataFrame library."""
    try:
        return import_module(module)
    except ImportError:
        pass
    raise InputError(
        f"{module} is not installed.", hint=f"Install it: pip install {module}"
    )


# --- Names ----------------------------------------------------------------------------


def _choose_columns(
    header: Sequence[str],
    labels: Sequence[Hashable],
    options: MapOptions,
    *,
    identifiers: Mapping[str, Hashable],
    column: Hashable | None,
    type_column: Hashable | None,
    country: str | None,
    country_column: Hashable | None,
) -> MapOptions:
    """Return *options* with the columns from the arguments, by their names in *header*.

    The header has the *labels* of the frame as text.
    """
    name = partial(_find_name, header, labels)
    kinds = identifiers or options.identifiers
    column = options.column if column is None else column
    type_column = options.type_column if type_column is None else type_column
    changed = attrs.evolve(
        options,
        identifiers={
            kind: name(one, f"Pass {kind}= with one of these columns.")
            for kind, one in kinds.items()
        },
        column=None if column is None else str(column),
        type_column=None if type_column is None else str(type_column),
        country=options.country if country is None else country,
        country_column=options.country_column
        if country_column is None
        else name(country_column, "Pass country_column= with one of these."),
    )
    if kinds:
        return changed
    hint = "Pass email=, phone=, email_hash= or phone_hash= with one of these."
    named = name(VALUE_NAME if column is None else column, hint)
    if options.type is not None:
        return attrs.evolve(changed, column=named)
    hint = (
        "Pass type_column=, or one of email=, phone=, email_hash= and "
        "phone_hash= if all rows have the same type."
    )
    kind = name(KIND_NAME if type_column is None else type_column, hint)
    return attrs.evolve(changed, column=named, type_column=kind)


def _find_name(
    header: Sequence[str], labels: Sequence[Hashable], label: Hashable, hint: str
) -> str:
    """Return the engine's name of the column *label*."""
    exact = [at for at, one in enumerate(labels) if _is_equal(one, label)]
    if len(exact) == 1:
        at = exact[0]
    else:
        at = find_column(header, str(label), name=NAME, hint=hint)
    name = header[at]
    if header.count(name) == 1:
        return name
    return f"{name}#{header[: at + 1].count(name)}"


def _is_equal(one: object, other: object) -> bool:
    """Compare two labels. A comparison with ``pandas.NA`` is neither true nor false."""
    try:
        return bool(one == other)
    except (TypeError, ValueError):
        return False


# --- Progress -------------------------------------------------------------------------


@contextmanager
def _reporting(
    progress: bool | Callable[[FileProgress], object], rows: int | None
) -> Iterator[Callable[[FileProgress], object] | None]:
    """Yield the function to call with the progress, or None."""
    if callable(progress):
        yield progress
        return
    tqdm = None
    if progress:
        with suppress(ImportError), warnings.catch_warnings():
            # It warns if a notebook has no widgets, and then uses text.
            warnings.simplefilter("ignore")
            tqdm = import_module("tqdm.auto").tqdm
    if tqdm is None:
        yield None
        return
    phase = ""
    with tqdm(total=rows, unit=" rows") as bar:

        def show(done: FileProgress) -> None:
            nonlocal phase
            if done.phase != phase:
                phase = done.phase
                # The operator may be asked about only some of the identities.
                bar.reset()
                bar.total = None if phase == "asking" else rows
                bar.set_description(phase, refresh=False)
            bar.update(done.rows - bar.n)

        yield show


strip_tracebacks(globals())
