"""PySpark: the column of a DataFrame mapped by many tasks that share one limit.

The operator allows an API key about 20 requests in flight, however many machines send
them. So the work goes to at most so many tasks, and each may have its share in flight.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.columns import KIND_NAME
from uid2_async.bulk.mapper import BulkMapper
from uid2_async.bulk.paths import Content
from uid2_async.bulk.state_values import (
    INVALID_RECHECK,
    OPTOUT_RECHECK,
    RECHECK_AFTER,
    recheck_seconds,
    seconds_from,
)
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError, InputError
from uid2_async.integrations.arrow import (
    HASH_NAME,
    ColumnNames,
    IdentityColumns,
    map_batches,
)
from uid2_async.integrations.spark_state import HASHED, HashTask, MappingTable
from uid2_async.integrations.sync_stream import stream_in_thread
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = [
    "IncrementalRun",
    "euid_from_env",
    "local_session",
    "map_dataframe",
    "map_incrementally",
]

_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_SPARK_TYPES: Final = {Content.TEXT: "string", Content.INSTANT: "timestamp"}


def map_dataframe(
    df: DataFrame,
    *,
    column: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of INPUT_TYPE
    budget: int = 20,
    tasks: int | None = None,
    repartition: bool = True,
    credentials: str | None = None,
    names: ColumnNames = "upper",
) -> DataFrame:
    """Map the identities in a column, and add the raw UIDs as columns.

    The columns are those of :func:`~uid2_async.integrations.arrow.map_batches`; Spark
    keeps no order of rows. Like all of Spark it is lazy, and done again for each action
    on the result: write that, or persist it.

    What could not be asked about is a row with ERROR. What would meet all rows, such as
    a rejected key, ends the task.

    Args:
        df: What to map.
        column: The column with the identities; INPUT by default.
        type: What they are: email, phone, email_hash or phone_hash; by default each
            row's INPUT_TYPE says so.
        budget: How many requests may be in flight, all tasks together.
        tasks: Into how many tasks the work is divided, each with ``budget // tasks``
            requests in flight; by default as many as the cluster runs at once, at most
            *budget*. More than it runs at once leave a part of the budget unused.
        repartition: Whether *df* is repartitioned to that number. If not, its own
            partitions are counted, for which Spark may run a part of its plan.
        credentials: ``module:function`` that each task imports and calls without
            arguments; it returns a UID2Client, or the arguments of one by name.
            By default ``UID2Client.from_env`` reads the environment of the worker.
        names: How the added columns are spelled.

    Returns:
        A DataFrame with the columns of *df* and the added ones.

    Raises:
        ConfigError: If pyspark is not installed, there are more tasks than *budget*, or
            *credentials* does not name a function.
        InputError: If a column is missing, is not text, or already exists.
    """
    wanted = IdentityColumns(column=column, kind=type, names=names)
    schema = _extend_schema(df, wanted)
    _check_credentials(credentials)
    divided, count = _divide(df, budget=budget, tasks=tasks, repartition=repartition)
    # An empty DataFrame may have no partition at all.
    share = budget // max(1, count)
    task = MapTask(wanted=wanted, concurrency=share, credentials=credentials)
    return divided.mapInArrow(task, schema)


@attrs.frozen(kw_only=True)
class IncrementalRun:
    """What a run of :func:`map_incrementally` did.

    Attributes:
        started: When the run began; CHECKED of the identities that it asked about.
        invalid: How many rows of *people* have no valid identity.
        asked: About how many identities the operator was asked.
        mapped: How many of those have a raw UID.
        opted_out: How many have opted out.
        failed: How many could not be asked about. The next run asks again.
        changes: What changed since the last run that was marked as exported, with the
            columns of a delta: CHANGE, INPUT_TYPE, IDENTITY_HASH, UID and OLD_UID.
    """

    started: datetime
    invalid: int
    asked: int
    mapped: int
    opted_out: int
    failed: int
    changes: DataFrame = attrs.field(repr=False)
    _table: MappingTable = attrs.field(repr=False, alias="table")

    def mark_exported(self) -> None:
        """Say that *changes* are durable where they are needed.

        Until then each run returns them again, net of what has changed since.

        Raises:
            JobError: If a later run has changed the table.
        """
        self._table.mark_exported(seconds_from(self.started))


def map_incrementally(  # noqa: PLR0913 - keyword options, each of its own meaning
    people: DataFrame,
    mapping_table: str,
    *,
    column: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of INPUT_TYPE
    budget: int = 20,
    tasks: int | None = None,
    credentials: str | None = None,
    recheck_after: timedelta = RECHECK_AFTER,
    optout_recheck: timedelta = OPTOUT_RECHECK,
    invalid_recheck: timedelta = INVALID_RECHECK,
    table_format: Literal["delta", "iceberg"] = "delta",
    now: datetime | None = None,
) -> IncrementalRun:
    """Map who is new, due or long unchecked, and merge the answers into a table.

    The rules are those of :class:`~uid2_async.bulk.state.MappingState`. The table has
    a row for each identity: its type and first-level hash, never the identity itself.
    A run that failed is repeated by the next one, with the same result. People who are
    no longer among *people* stay in the table, and are not asked about.

    Args:
        people: Who; other columns do not matter.
        mapping_table: The name of a Delta or Iceberg table, or the path of a Delta
            table, which contains a slash. It is created if it does not exist. Use one
            for each operator and scope, in one run at a time.
        column: See :func:`map_dataframe`.
        type: See :func:`map_dataframe`.
        budget: See :func:`map_dataframe`.
        tasks: See :func:`map_dataframe`.
        credentials: See :func:`map_dataframe`.
        recheck_after: How long a check of a mapped identity counts.
        optout_recheck: The same after an opt-out.
        invalid_recheck: The same for an identity that the operator calls invalid.
        table_format: What is created.
        now: When the run begins, as an aware datetime; by default the present.

    Returns:
        Counts and changes. Write the changes, then call ``mark_exported``.

    Raises:
        ConfigError: If pyspark is not installed or an option is wrong.
        InputError: If a column of *people* or of the table is missing, or *people* is
            a stream.
    """
    _check_credentials(credentials)
    intervals = recheck_seconds(recheck_after, optout_recheck, invalid_recheck)
    wanted = IdentityColumns(column=column, kind=type, names="upper")
    hashed = _hash_people(people, wanted)
    table = MappingTable.open(people.sparkSession, mapping_table, table_format)
    exported = table.exported()
    # Two runs within a second must not look like one: the first may be exported.
    started = max(seconds_from(now or datetime.now(UTC)), exported + 1)
    given = {**intervals, "started": started, "exported": exported}
    due = table.select_due(hashed, given)
    # Asked here and once: what follows reads the answers several times. An answer that
    # is lost with its machine ends the run, and is not silently asked again.
    answers = map_dataframe(
        due, column=HASH_NAME, budget=budget, tasks=tasks, credentials=credentials
    ).localCheckpoint(eager=True)
    counts = _count(answers)
    if counts["asked"] > counts["failed"]:
        table.merge(answers, given)
    table.expire(given)
    return IncrementalRun(
        started=datetime.fromtimestamp(started, UTC),
        **counts,
        changes=table.changes(exported),
        table=table,
    )


def euid_from_env() -> UID2Client:
    """Make a client of EUID from the environment: name it as *credentials*."""
    return UID2Client.from_env(IdentityScope.EUID)


def local_session(
    cores: int = 2,
    *,
    app_name: str = "uid2-async",
    config: Mapping[str, str] | None = None,
) -> SparkSession:
    """Open a Spark session in this machine, for trials and tests.

    It sets the environment's PYSPARK_PYTHON to this Python where it is not set, since
    workers are started by that name.

    Args:
        cores: How many tasks run at once.
        app_name: What Spark calls the application.
        config: Further settings, such as those of a table format.

    Raises:
        ConfigError: If pyspark is not installed, or Java does not start, for which
            it downloads what ``spark.jars.packages`` names.
    """
    _require_pyspark()
    from pyspark.errors import PySparkRuntimeError  # noqa: PLC0415 - an extra
    from pyspark.sql import SparkSession  # noqa: PLC0415 - an extra

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        SparkSession.Builder()
        .master(f"local[{cores}]")
        .appName(app_name)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", "false")
        .config(map=dict(config or {}))
    )
    try:
        return builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
    raise ConfigError(
        "Spark's Java did not start.",
        hint="Its output says why. Spark needs Java 17 or newer (JAVA_HOME or PATH), "
        "and first downloads what spark.jars.packages names.",
    )


@attrs.frozen(kw_only=True)
class MapTask:
    """What Spark carries to the workers: settings, none of them secret.

    It is a class of a module, and no closure, so that the plan names it and does not
    hold its surroundings.

    Attributes:
        wanted: The columns.
        concurrency: How many requests a task may have in flight.
        credentials: ``module:function``, or None for the environment.
    """

    wanted: IdentityColumns
    concurrency: int
    credentials: str | None

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map the batches of one task."""
        return stream_in_thread(self._map, batches)

    async def _map(
        self, batches: AsyncIterator[pa.RecordBatch]
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Map them with a client of this task's own."""
        wanted = self.wanted
        async with _make_client(self.credentials) as client:
            mapped = map_batches(
                batches,
                mapper=BulkMapper(client, concurrency=self.concurrency),
                column=wanted.column,
                type=wanted.kind,
                names=wanted.names,
            )
            async with aclosing(mapped):
                async for batch in mapped:
                    yield batch


def _require_pyspark() -> None:
    """Say which extra is missing."""
    try:
        import pyspark  # noqa: F401, PLC0415 - an extra
    except ImportError:
        pass
    else:
        return
    raise ConfigError(
        "Spark needs pyspark, which is not installed.",
        hint="pip install 'uid2-async[spark]'",
    )


def _extend_schema(df: DataFrame, wanted: IdentityColumns) -> StructType:
    """Find the columns before anything runs, and append the added ones."""
    _require_pyspark()
    from pyspark.sql.types import StructType  # noqa: PLC0415 - an extra

    _require_text(df, wanted.find(df.columns))
    schema = StructType(list(df.schema.fields))
    for name, content in wanted.outcome_columns().contents.items():
        schema.add(name, _SPARK_TYPES[content])
    return schema


def _require_text(df: DataFrame, places: Sequence[int | None]) -> None:
    """Refuse columns that are not text."""
    from pyspark.sql.types import StringType  # noqa: PLC0415 - an extra

    for at in places:
        field = None if at is None else df.schema.fields[at]
        if field is not None and not isinstance(field.dataType, StringType):
            raise InputError(
                f"The column '{field.name}' is not text, but "
                f"{field.dataType.simpleString()}.",
                hint="Cast it to strings. Numbers lose their + and leading zeros.",
            )


def _hash_people(people: DataFrame, wanted: IdentityColumns) -> DataFrame:
    """Return each identity once, by its hash, and in how many rows it is.

    Rows without a valid identity have none, and are one row of the result.
    """
    _require_pyspark()
    if people.isStreaming:
        raise InputError(
            "A stream cannot be merged as a whole.",
            hint="Call map_incrementally in foreachBatch.",
        )
    places = wanted.locate(people.columns)
    _require_text(people, places)
    names = [people.columns[at].replace("`", "``") for at in places if at is not None]
    hashed = people.select(*[f"`{name}`" for name in names]).mapInArrow(
        HashTask(wanted), HASHED
    )
    return hashed.groupBy(KIND_NAME, HASH_NAME).count()


def _count(answers: DataFrame) -> dict[str, int]:
    """Return the counts of a run."""
    (counts,) = answers.selectExpr(
        f"count({HASH_NAME}) AS asked",
        "count(UID) AS mapped",
        "count_if(UNMAPPED = 'OPTOUT') AS opted_out",
        "count(ERROR) AS failed",
        f"coalesce(sum(IF({HASH_NAME} IS NULL, count, 0)), 0) AS invalid",
    ).collect()
    return dict(counts.asDict())


def _divide(
    df: DataFrame, *, budget: int, tasks: int | None, repartition: bool
) -> tuple[DataFrame, int]:
    """Give *df* as many partitions as there should be tasks, and their number."""
    if budget < 1 or (tasks is not None and tasks < 1):
        raise ConfigError("budget and tasks must be above zero.")
    if not repartition and tasks is not None:
        raise ConfigError("repartition=False leaves the partitions as they are.")
    if not repartition and df.isStreaming:
        raise ConfigError("The partitions of a stream are not known in advance.")
    if not repartition:
        count = df.rdd.getNumPartitions()
    else:
        count = tasks or min(budget, _parallelism(df, budget))
    if count > budget:
        raise ConfigError(
            f"{count} tasks cannot share a budget of {budget} requests in flight.",
            hint="Use fewer tasks: pass tasks= or repartition=True.",
        )
    return (df.repartition(count) if repartition else df), count


def _parallelism(df: DataFrame, otherwise: int) -> int:
    """Return how many tasks run at once; Spark Connect does not report it."""
    context = getattr(df.sparkSession, "sparkContext", None)
    return otherwise if context is None else max(1, context.defaultParallelism)


def _check_credentials(credentials: object) -> None:
    """Reject anything but the name of a function: an object would be in the plan."""
    if credentials is None:
        return
    if not isinstance(credentials, str) or not _FUNCTION.fullmatch(credentials):
        raise ConfigError(
            "credentials must be None or a string 'module:function'.",
            hint="Name a function that the workers can import.",
        )


def _make_client(credentials: str | None) -> UID2Client:
    """Make a client where the task runs.

    Raises:
        ConfigError: If the function cannot be found, or returns something else.
    """
    if credentials is None:
        return UID2Client.from_env()
    made = _find_function(credentials)()
    if isinstance(made, UID2Client):
        return made
    if isinstance(made, Mapping):
        return UID2Client(**made)
    raise ConfigError(
        f"{credentials} returned neither a UID2Client nor its arguments.",
        hint="Return a UID2Client, or a dict with base_url, api_key, client_secret.",
    )


def _find_function(name: str) -> Callable[[], object]:
    """Import what *name* names."""
    try:
        found: Callable[[], object] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pass
    else:
        return found
    raise ConfigError(
        f"A worker cannot import {name}.",
        hint="Install its module on the workers, or send it there with addPyFile.",
    )


strip_tracebacks(globals())
