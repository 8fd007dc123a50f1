"""PySpark: maps a column of a DataFrame in many tasks that share one limit.

The operator allows an API key about 20 concurrent requests, however many machines send
them. The number of tasks is therefore limited, and each task gets an equal share of the
limit.
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
    type: str | None = None,  # noqa: A002 - as in INPUT_TYPE
    budget: int = 20,
    tasks: int | None = None,
    repartition: bool = True,
    credentials: str | None = None,
    names: ColumnNames = "upper",
) -> DataFrame:
    """Map the identities in a column, and append their raw UIDs to each row.

    The added columns are those of :func:`~uid2_async.integrations.arrow.map_batches`.
    Spark does not keep the order of rows. Like all of Spark, the mapping is lazy, and
    is repeated for each action on the result. Write or persist the result.

    A row for which the operator could not be asked has an ERROR. An error that affects
    all rows, such as a rejected API key, fails the task.

    Args:
        df: The DataFrame to map.
        column: The column with the identities. Defaults to INPUT.
        type: The type of all identities: email, phone, email_hash or phone_hash.
            Defaults to the column INPUT_TYPE of each row.
        budget: The maximum number of concurrent requests of all tasks together.
        tasks: The number of tasks, each with ``budget // tasks`` concurrent requests.
            Defaults to as many as the cluster runs at once, but at most *budget*. With
            more tasks than the cluster runs at once, a part of the budget is unused.
        repartition: Whether to repartition *df* to that number of tasks. If not, its
            existing partitions are counted, for which Spark may have to run a part of
            its plan.
        credentials: The name ``module:function`` of a function that each task imports
            and calls without arguments. It returns a UID2Client, or a dict of its
            arguments. Defaults to ``UID2Client.from_env`` with the environment of the
            worker.
        names: The spelling of the added columns.

    Returns:
        A DataFrame with the columns of *df* and the added ones.

    Raises:
        ConfigError: If pyspark is not installed, there are more tasks than *budget*, or
            *credentials* does not name a function.
        InputError: If a column is missing or is not text, or an added column already
            exists.
    """
    wanted = IdentityColumns(column=column, kind=type, names=names)
    schema = _extend_schema(df, wanted)
    _check_credentials(credentials)
    divided, count = _partition(df, budget=budget, tasks=tasks, repartition=repartition)
    # An empty DataFrame may have no partitions.
    share = budget // max(1, count)
    task = MapTask(wanted=wanted, concurrency=share, credentials=credentials)
    return divided.mapInArrow(task, schema)


@attrs.frozen(kw_only=True)
class IncrementalRun:
    """The result of a run of :func:`map_incrementally`.

    Attributes:
        started: When the run began, which is CHECKED of the identities that it asked
            about.
        invalid: The number of rows of *people* without a valid identity.
        asked: The number of identities that the operator was asked about.
        mapped: The number of those that have a raw UID.
        opted_out: The number of those that have opted out.
        failed: The number of those whose request failed. The next run asks about them
            again.
        changes: The changes since the last exported run, with the columns of a delta:
            CHANGE, INPUT_TYPE, IDENTITY_HASH, UID and OLD_UID.
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
        """Record that *changes* have been saved where they are needed.

        Until then, each run returns them again, combined with later changes.

        Raises:
            JobError: If a later run has changed the table.
        """
        self._table.mark_exported(seconds_from(self.started))


def map_incrementally(  # noqa: PLR0913 - keyword options, each of its own meaning
    people: DataFrame,
    mapping_table: str,
    *,
    column: str | None = None,
    type: str | None = None,  # noqa: A002 - as in INPUT_TYPE
    budget: int = 20,
    tasks: int | None = None,
    credentials: str | None = None,
    recheck_after: timedelta = RECHECK_AFTER,
    optout_recheck: timedelta = OPTOUT_RECHECK,
    invalid_recheck: timedelta = INVALID_RECHECK,
    table_format: Literal["delta", "iceberg"] = "delta",
    now: datetime | None = None,
) -> IncrementalRun:
    """Map new and stale identities, and merge the results into a table.

    The rules are those of :class:`~uid2_async.bulk.state.MappingState`. The table has a
    row for each identity, with its type and first-level hash, but not the identity
    itself. If a run fails, the next run repeats it with the same result. People who are
    no longer in *people* stay in the table, and are not asked about.

    Args:
        people: The identities. Other columns are ignored.
        mapping_table: The name of a Delta or Iceberg table, or the absolute path or
            URL of a Delta table. It is created if it does not exist. Use one table for
            each operator and scope, and only one run at a time.
        column: See :func:`map_dataframe`.
        type: See :func:`map_dataframe`.
        budget: See :func:`map_dataframe`.
        tasks: See :func:`map_dataframe`.
        credentials: See :func:`map_dataframe`.
        recheck_after: How long the result for a mapped identity stays fresh.
        optout_recheck: The same for a person who has opted out.
        invalid_recheck: The same for an identity that the operator rejects as invalid.
        table_format: The format of a new table.
        now: When the run begins, as an aware datetime. Defaults to the current time.

    Returns:
        The counts and the changes. Save the changes, then call ``mark_exported``.

    Raises:
        ConfigError: If pyspark is not installed or an option is wrong.
        InputError: If a column of *people* or of the table is missing, or *people* is a
            stream.
    """
    _check_credentials(credentials)
    intervals = recheck_seconds(recheck_after, optout_recheck, invalid_recheck)
    wanted = IdentityColumns(column=column, kind=type, names="upper")
    hashed = _hash_people(people, wanted)
    table = MappingTable.open(people.sparkSession, mapping_table, table_format)
    exported = table.exported()
    # Two runs within a second must have different times, because the first may be
    # exported.
    started = max(seconds_from(now or datetime.now(UTC)), exported + 1)
    given = {**intervals, "started": started, "exported": exported}
    due = table.select_due(hashed, given)
    # Ask here, and only once, because the following steps read the results several
    # times. If results are lost with their machine, the run fails instead of asking
    # again unnoticed.
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
    """Create a client of EUID from the environment. Pass its name as *credentials*."""
    return UID2Client.from_env(IdentityScope.EUID)


def local_session(
    cores: int = 2,
    *,
    app_name: str = "uid2-async",
    config: Mapping[str, str] | None = None,
) -> SparkSession:
    """Create a Spark session on this machine, for experiments and tests.

    Sets the environment variable PYSPARK_PYTHON to this Python if it is not set,
    because Spark starts the workers with it.

    Args:
        cores: The number of tasks to run at once.
        app_name: The name of the application in Spark.
        config: Additional settings, such as those of a table format.

    Raises:
        ConfigError: If pyspark is not installed, or Java does not start. Before it
            starts, Java downloads the packages in ``spark.jars.packages``.
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
        hint="Its output shows why. Spark requires Java 17 or later in JAVA_HOME or "
        "PATH, and first downloads what spark.jars.packages names.",
    )


@attrs.frozen(kw_only=True)
class MapTask:
    """The settings that Spark sends to the workers. They contain no secrets.

    It is a module-level class instead of a closure, so that the plan references it by
    name and does not contain its surroundings.
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
        """Map the batches with a client that belongs to this task."""
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
    """Raise an error that names the extra if pyspark is missing."""
    try:
        import pyspark  # noqa: F401, PLC0415 - an extra
    except ImportError:
        pass
    else:
        return
    raise ConfigError(
        "Spark requires pyspark, which is not installed.",
        hint="pip install 'uid2-async[spark]'",
    )


def _extend_schema(df: DataFrame, wanted: IdentityColumns) -> StructType:
    """Check the columns before anything runs, and return the schema of the result."""
    _require_pyspark()
    from pyspark.sql.types import StructType  # noqa: PLC0415 - an extra

    _require_text(df, wanted.find(df.columns))
    schema = StructType(list(df.schema.fields))
    for name, content in wanted.outcome_columns().contents.items():
        schema.add(name, _SPARK_TYPES[content])
    return schema


def _require_text(df: DataFrame, positions: Sequence[int | None]) -> None:
    """Raise if a column is not text."""
    from pyspark.sql.types import StringType  # noqa: PLC0415 - an extra

    for at in positions:
        field = None if at is None else df.schema.fields[at]
        if field is not None and not isinstance(field.dataType, StringType):
            raise InputError(
                f"The column '{field.name}' is not text, but "
                f"{field.dataType.simpleString()}.",
                hint="Cast it to strings. Numbers have lost their + and leading zeros.",
            )


def _hash_people(people: DataFrame, wanted: IdentityColumns) -> DataFrame:
    """Return each identity once, as its hash, with the number of its rows.

    Rows without a valid identity become one row without a hash.
    """
    _require_pyspark()
    if people.isStreaming:
        raise InputError(
            "A stream cannot be merged as a whole.",
            hint="Call map_incrementally in foreachBatch.",
        )
    positions = wanted.locate(people.columns)
    _require_text(people, positions)
    names = [
        people.columns[at].replace("`", "``") for at in positions if at is not None
    ]
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


def _partition(
    df: DataFrame, *, budget: int, tasks: int | None, repartition: bool
) -> tuple[DataFrame, int]:
    """Partition *df* into one partition per task. Return it and their number."""
    if budget < 1 or (tasks is not None and tasks < 1):
        raise ConfigError("budget and tasks must be greater than zero.")
    if not repartition and tasks is not None:
        raise ConfigError("repartition=False leaves the partitions as they are.")
    if not repartition and df.isStreaming:
        raise ConfigError("The partitions of a stream are not known in advance.")
    if not repartition:
        count = df.rdd.getNumPartitions()
    else:
        # Spark Connect does not say how many tasks run at once.
        context = getattr(df.sparkSession, "sparkContext", None)
        at_once = budget if context is None else max(1, context.defaultParallelism)
        count = tasks or min(budget, at_once)
    if count > budget:
        raise ConfigError(
            f"{count} tasks cannot share a budget of {budget} requests in flight.",
            hint="Use fewer tasks: tasks=, or repartition=True.",
        )
    return (df.repartition(count) if repartition else df), count


def _check_credentials(credentials: object) -> None:
    """Raise if *credentials* is not a string. The plan would contain other objects."""
    if credentials is None:
        return
    if not isinstance(credentials, str) or not _FUNCTION.fullmatch(credentials):
        raise ConfigError(
            "credentials must be None or a string 'module:function'.",
            hint="Pass the name of a function that the workers can import.",
        )


def _make_client(credentials: str | None) -> UID2Client:
    """Create a client on the worker."""
    if credentials is None:
        return UID2Client.from_env()
    try:
        function: Callable[[], object] | None = pkgutil.resolve_name(credentials)
    except (ImportError, AttributeError):
        function = None
    if function is None:
        raise ConfigError(
            f"A worker cannot import {credentials}.",
            hint="Install its module on the workers, or send it to them with "
            "addPyFile().",
        )
    made = function()
    if isinstance(made, UID2Client):
        return made
    if isinstance(made, Mapping):
        return UID2Client(**made)
    raise ConfigError(
        f"{credentials} returned neither a UID2Client nor its arguments.",
        hint="Return a UID2Client, or a dict with base_url, api_key, client_secret.",
    )


strip_tracebacks(globals())
