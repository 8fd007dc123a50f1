"""The options of file jobs, and what a job reports: progress and summary."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from uid2_async._failures import CONTROL_FLOW
from uid2_async._traceback import check_types, strip_tracebacks
from uid2_async.bulk.columns import PHONE, IdentifierColumns, find_identifiers
from uid2_async.bulk.outcomes import OptOutRule, Progress
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.bulk.state_values import DEFAULT_SEGMENT
from uid2_async.errors import ConfigError, JobError
from uid2_async.phones import check_country, load_countries
from uid2_async.protocol.normalize import KINDS


class Names(StrEnum):
    """The spelling of the added columns: ``UID`` or ``uid``."""

    UPPER = "upper"
    SNAKE = "snake"


class RefreshFrom(StrEnum):
    """The format of REFRESH_FROM: seconds since the Unix epoch, or ISO 8601 text.

    In Parquet and Arrow, the latter is a timestamp.
    """

    EPOCH = "epoch"
    ISO = "iso"


class Api(StrEnum):
    """The version of the identity/map endpoint; v2 works with salt buckets."""

    V3 = "v3"
    V2 = "v2"


def check_arguments(
    client: object, on_progress: Any, stop: object = None
) -> Callable[[Any], object] | None:
    """Check the arguments of a job that are not options, before it starts.

    Returns:
        *on_progress*, unable to end the caller silently.

    Raises:
        ConfigError: If one of them has the wrong type.
    """
    from uid2_async.client import UID2Client  # noqa: PLC0415 - imports aiohttp

    if not isinstance(client, UID2Client):
        raise ConfigError("client must be a UID2Client.")
    if stop is not None and not isinstance(stop, asyncio.Event):
        raise ConfigError("stop must be an asyncio.Event.")
    if on_progress is None:
        return None
    if not callable(on_progress) or inspect.iscoroutinefunction(on_progress):
        raise ConfigError("on_progress must be a function that is not async.")

    def report(progress: object) -> None:
        try:
            on_progress(progress)
        except CONTROL_FLOW as error:
            raise JobError(f"on_progress raised {type(error).__name__}.") from None

    return report


# For options that do not affect the output: they may change on resume.
_MAY_CHANGE: Final = {"may_change": True}

DELTA_COLUMNS: Final = ("CHANGE", "INPUT_TYPE", "IDENTITY_HASH", "UID", "OLD_UID")

_MAX_REMOVED: Final = 0.05

# Each request in flight needs a connection, and so a file descriptor.
MAX_CONCURRENCY: Final = 10_000


def check_above_zero(**options: float | None) -> None:
    """Raise a ConfigError if a number is not greater than zero."""
    for name, value in options.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be greater than zero.")


def _check_number(_: object, option: attrs.Attribute[Any], value: Any) -> None:
    """Reject a number that is not greater than zero, and too many requests."""
    check_above_zero(**{option.name: value})
    if option.name == "concurrency" and value > MAX_CONCURRENCY:
        raise ConfigError(f"{option.name} must be at most {MAX_CONCURRENCY}.")


def _number(default: Any) -> Any:
    """Declare a number greater than zero that does not affect the output."""
    return attrs.field(default=default, validator=_check_number, metadata=_MAY_CHANGE)


# Not slotted, because classes with slots cannot be combined.
@attrs.frozen(kw_only=True, slots=False, field_transformer=check_types)
class JobOptions:
    """How a job sends its requests, and what it may replace.

    The base of the options of file jobs. None of these affect the output.

    Attributes:
        batch_size: Identities per request. Defaults to the client's max_batch_size.
        concurrency: The maximum number of requests in flight.
        dedupe_window: The number of distinct identities to remember without a state.
        stall_timeout: Seconds without a successful request before the job is aborted.
        force: Whether existing outputs may be replaced.
        shared_folders: Whether outputs and the state may be in a folder that other
            users can write to.
    """

    batch_size: int | None = _number(None)
    concurrency: int = _number(20)
    dedupe_window: int = _number(100_000)
    stall_timeout: float = _number(120.0)
    force: bool = attrs.field(default=False, metadata=_MAY_CHANGE)
    shared_folders: bool = attrs.field(default=False, metadata=_MAY_CHANGE)

    def terms(self) -> dict[str, Any]:
        """Return the options that must not change until the job is done."""
        return attrs.asdict(self, filter=lambda option, _: not option.metadata)


@attrs.frozen(kw_only=True, field_transformer=check_types)
class FileJobOptions(FileFormatOptions, JobOptions):
    """The options that all file jobs share.

    Attributes:
        bad_rows: A file for rows that cannot be read, so that the job maps the others.
            By default, such a row is an error.
        job_dir: The folder with the data for resuming the job. Defaults to a hidden
            folder next to the output.
        restart: Whether an unfinished job is discarded.
        precheck: Whether text files are read completely before the first request, so
            that a malformed row is found before anything is sent. With a state, they
            always are.
    """

    bad_rows: str | os.PathLike[str] | None = None
    job_dir: str | os.PathLike[str] | None = attrs.field(
        default=None, metadata=_MAY_CHANGE
    )
    restart: bool = attrs.field(default=False, metadata=_MAY_CHANGE)
    precheck: bool = attrs.field(default=True, metadata=_MAY_CHANGE)

    def terms(self) -> dict[str, Any]:
        """Return the options that must not change until the job is done."""
        terms, path = super().terms(), self.bad_rows
        return {**terms, "bad_rows": None if path is None else os.fspath(path)}


@attrs.frozen(kw_only=True, field_transformer=check_types)
class MapOptions(FileJobOptions):
    """The options of :func:`~uid2_async.map_file`.

    Its bases have more: :class:`~uid2_async.bulk.FileFormatOptions` says how the files
    are written, :class:`~uid2_async.bulk.FileJobOptions` how the job is resumed, and
    :class:`~uid2_async.bulk.JobOptions` how it sends. When a job is resumed,
    *max_removed* and the options that do not affect the output may change.

    Example:
        >>> options = MapOptions(
        ...     identifiers={"email": "mail", "phone": "tel"}, names="snake"
        ... )

    Attributes:
        column: The column with the identifiers. Defaults to ``INPUT``.
        type: The type of the identifiers: ``email``, ``phone``, ``email_hash`` or
            ``phone_hash``. Defaults to the value of *type_column* in each row.
        type_column: The column with the type of each row. Defaults to ``INPUT_TYPE``.
        identifiers: Several columns by type, in order of preference, instead of
            *column* and *type*.
        country: The two-letter country of phone numbers in national format, such as
            ``030 123456``. Requires the extra ``phone``.
        country_column: The column with the country of each row. *country* applies to
            rows where it is empty.
        names: The spelling of the added columns.
        refresh_from: How REFRESH_FROM is written. Defaults to seconds since the Unix
            epoch in text, and to a timestamp in Parquet and Arrow.
        optout_rule: What an opt-out means for a row with several identifiers.
        explode: Whether each identifier gets its own row.
        api: The endpoint version.
        keys: The input columns that the delta contains.
        full: Whether the input is the whole audience, so that people missing from it
            are REMOVED.
        segment: The name of that audience, for states with several. ``default`` is also
            the audience of mapped people who are in no segment.
        max_removed: The maximum share of the audience that may be removed at once, from
            0 to 1. The job fails before it asks about anybody.
    """

    column: str | None = None
    type: str | None = None
    type_column: str | None = None
    identifiers: Mapping[str, str] = attrs.field(factory=dict)
    country: str | None = None
    country_column: str | None = None
    names: Names = attrs.field(default=Names.UPPER, converter=Names)
    refresh_from: RefreshFrom | None = attrs.field(
        default=None, converter=attrs.converters.optional(RefreshFrom)
    )
    optout_rule: OptOutRule = attrs.field(default=OptOutRule.ANY, converter=OptOutRule)
    explode: bool = False
    api: Api = attrs.field(default=Api.V3, converter=Api)
    keys: Sequence[str] = ()
    full: bool = False
    segment: str = DEFAULT_SEGMENT
    # Users raise it after it has stopped their job, which must then resume.
    max_removed: float = attrs.field(default=_MAX_REMOVED, metadata=_MAY_CHANGE)

    def __attrs_post_init__(self) -> None:
        """Reject contradictory options."""
        super().__attrs_post_init__()
        if self.identifiers and (self.column or self.type or self.type_column):
            raise ConfigError(
                "Name one column with its type, or several columns by type; not both."
            )
        if self.type is not None and self.type_column is not None:
            raise ConfigError(
                "Name one type for all rows, or the column of types; not both."
            )
        # Without a type, each row may contain a phone number.
        kinds = list(self.identifiers) or [self.type or PHONE]
        if not set(kinds) <= set(KINDS):
            raise ConfigError(f"The identifier types are {', '.join(KINDS)}.")
        is_national = self.country is not None or self.country_column is not None
        if is_national and PHONE not in kinds:
            raise ConfigError(
                "A country applies to phone numbers, and no column contains any.",
                hint="Name a column of phone numbers, or leave the country out.",
            )
        if not 0 <= self.max_removed <= 1:
            raise ConfigError("max_removed must be between 0 and 1.")
        is_default = (self.segment, self.max_removed) == (DEFAULT_SEGMENT, _MAX_REMOVED)
        if not self.full and not is_default:
            raise ConfigError(
                "A segment and max_removed apply only to a whole audience.",
                hint="If the input is one, say so (`full=True`).",
            )
        taken = [one for one in self.keys if one.upper() in DELTA_COLUMNS]
        if taken:
            raise ConfigError(
                f"A delta has a column {taken[0].upper()} of its own.",
                hint="Rename the column of the input, or name another key (`keys`).",
            )

    def identifier_finder(self) -> Callable[..., IdentifierColumns]:
        """Return the function that finds the identifiers in the header of a file.

        Blocks for about 0.2 s if there are national phone numbers.
        """
        if self.country is not None:
            check_country(self.country)
        if self.country is not None or self.country_column is not None:
            load_countries()
        return partial(
            find_identifiers,
            column=self.column,
            kind=self.type,
            several=self.identifiers,
            kind_column=self.type_column,
            country=self.country,
            country_column=self.country_column,
        )


@attrs.frozen(kw_only=True, field_transformer=check_types)
class StatusOptions(FileJobOptions):
    """The options of :func:`~uid2_async.bulk.check_file`; more in its bases.

    Attributes:
        column: The column with the raw UIDs.
        drop: Whether only rows that may be shared are written.
        allow_unverifiable: Whether rows whose status cannot be verified may be shared.
        concurrency: The maximum number of requests in flight. Public operators expect
            one at a time.
    """

    column: str = "UID"
    drop: bool = False
    allow_unverifiable: bool = False
    concurrency: int = _number(1)


@attrs.frozen(kw_only=True, field_transformer=check_types)
class RefreshOptions(JobOptions):
    """The options of :func:`~uid2_async.refresh_state`; more in :class:`JobOptions`.

    Attributes:
        unchecked_for: Ask about every mapped or opted-out identity that was not checked
            for this time. By default, ask about what is due.
        api: With v2, the rotated salt buckets determine what is due.
        limit: The maximum number of identities to ask about.
    """

    unchecked_for: timedelta | None = None
    api: Api = attrs.field(default=Api.V3, converter=Api)
    limit: int | None = attrs.field(default=None, validator=_check_number)


@attrs.frozen(kw_only=True)
class FileProgress:
    """The progress of a file job.

    Attributes:
        phase: ``reading`` the inputs, ``asking`` the operator, or ``writing`` outputs.
            A job without a state does all three at once and reports ``writing``.
        rows: Rows finished in this phase, including those of an interrupted run.
        bytes_read: Bytes of the inputs read for these rows.
        total_bytes: Bytes of all inputs, or None if that is unknown.
        endings: Rows by status: mapped, opted_out, invalid, empty, other, failed.
        job: The progress of the requests.
    """

    phase: str = "writing"
    rows: int
    bytes_read: int
    total_bytes: int | None
    endings: Mapping[str, int]
    job: Progress


@attrs.frozen(kw_only=True)
class JobSummary:
    """The result of a file job.

    If a job with a state is stopped before it writes rows, its rows are the identities
    that it asked about.

    Attributes:
        rows: Rows of the inputs, without bad rows. With *explode* or *drop*, the output
            has more or fewer.
        mapped: Rows with a raw UID.
        opted_out: Rows whose person has opted out.
        invalid: Rows with an invalid identifier or identifier type.
        empty: Rows without an identifier.
        other: Rows that the operator left unmapped for an unknown reason.
        failed: Rows whose request failed. They have an ERROR.
        bad_rows: Rows that could not be read and are in the file of bad rows.
        input_warnings: Suspicious patterns in the inputs, with the number of
            identifiers. Only the first 1,000 invalid hashes of a file are checked.
        duplicates: Identifiers that shared a request with an earlier one in this run.
        from_state: Identities that the state answered.
        requests: Requests sent in this run, retries included.
        throttled: Times the operator asked to slow down.
        resumed_rows: Rows that an interrupted run had finished, without a state.
        changes: Changes in the delta, or None without a delta.
        seconds: Duration of this run.
        outputs: The outputs that are complete: paths, or the names of remote outputs.
        complete: Whether the job is done. False if it was stopped cleanly.
    """

    rows: int = 0
    mapped: int = 0
    opted_out: int = 0
    invalid: int = 0
    empty: int = 0
    other: int = 0
    failed: int = 0
    bad_rows: int = 0
    input_warnings: Mapping[str, int] = attrs.field(factory=dict)
    duplicates: int = 0
    from_state: int = 0
    requests: int = 0
    throttled: int = 0
    resumed_rows: int = 0
    changes: int | None = None
    seconds: float = 0.0
    outputs: tuple[Path | str, ...] = ()
    complete: bool = True


strip_tracebacks(globals())
