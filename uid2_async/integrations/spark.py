"""PySpark: the column of a DataFrame mapped by many tasks that share one limit.

The operator allows an API key about 20 requests in flight, however many machines send
them. So the work goes to at most so many tasks, and each may have its share in flight.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.mapper import BulkMapper
from uid2_async.bulk.paths import Content
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError, InputError
from uid2_async.integrations.arrow import ColumnNames, IdentityColumns, map_batches
from uid2_async.integrations.sync_stream import stream_in_thread
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["euid_from_env", "local_session", "map_dataframe"]

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
    """Map the identities in a column, each row with its raw UID behind it.

    The columns are those of :func:`~uid2_async.integrations.arrow.map_batches`; Spark
    keeps no order of rows. Like all of Spark it is lazy, and done again for each action
    on the result: write that, or persist it.

    What could not be asked about is a row with ERROR. What would meet all rows, such as
    a rejected key, ends the task.

    Args:
        df: What to map.
        column: The column with the identities; INPUT by default.
        type: What they are: email, phone, email_hash or phone_hash; by default each
            row's INPUT_TYPE tells.
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
        InputError: If a column is missing, is no text, or is there already.
    """
    wanted = IdentityColumns(column=column, kind=type, names=names)
    schema = _extend_schema(df, wanted)
    _check_credentials(credentials)
    divided, count = _divide(df, budget=budget, tasks=tasks, repartition=repartition)
    # An empty DataFrame may have no partition at all.
    share = budget // max(1, count)
    task = MapTask(wanted=wanted, concurrency=share, credentials=credentials)
    return divided.mapInArrow(task, schema)


def euid_from_env() -> UID2Client:
    """Make a client of EUID from the environment: name it as *credentials*."""
    return UID2Client.from_env(IdentityScope.EUID)


def local_session(cores: int = 2, *, app_name: str = "uid2-async") -> SparkSession:
    """Open a Spark session in this machine, for trials and tests.

    It sets the environment's PYSPARK_PYTHON to this Python where it is not set, since
    workers are started by that name.

    Args:
        cores: How many tasks run at once.
        app_name: What Spark calls the application.

    Raises:
        ConfigError: If pyspark is not installed, or Java does not start.
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
    )
    try:
        return builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
    raise ConfigError(
        "Spark's Java did not start.",
        hint="Spark needs Java 17 or newer: install it, and set JAVA_HOME or PATH.",
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

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
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
    from pyspark.sql.types import StringType, StructType  # noqa: PLC0415 - an extra

    fields = df.schema.fields
    for at in wanted.find([field.name for field in fields]):
        if at is not None and not isinstance(fields[at].dataType, StringType):
            raise InputError(
                f"The column '{fields[at].name}' is no text, but "
                f"{fields[at].dataType.simpleString()}.",
                hint="Cast it to strings; numbers have lost their + and leading zeros.",
            )
    schema = StructType(list(fields))
    for name, content in wanted.outcome_columns().contents.items():
        schema.add(name, _SPARK_TYPES[content])
    return schema


def _divide(
    df: DataFrame, *, budget: int, tasks: int | None, repartition: bool
) -> tuple[DataFrame, int]:
    """Give *df* as many partitions as there shall be tasks, and their number."""
    if budget < 1 or (tasks is not None and tasks < 1):
        raise ConfigError("budget and tasks must be above zero.")
    if not repartition and tasks is not None:
        raise ConfigError("repartition=False leaves the partitions as they are.")
    if not repartition:
        count = df.rdd.getNumPartitions()
    else:
        count = tasks or min(budget, _parallelism(df, budget))
    if count > budget:
        raise ConfigError(
            f"{count} tasks cannot share a budget of {budget} requests in flight.",
            hint="Divide the work into fewer: tasks=, or repartition=True.",
        )
    return (df.repartition(count) if repartition else df), count


def _parallelism(df: DataFrame, otherwise: int) -> int:
    """Ask how many tasks run at once; Spark Connect cannot tell."""
    context = getattr(df.sparkSession, "sparkContext", None)
    return otherwise if context is None else max(1, context.defaultParallelism)


def _check_credentials(credentials: object) -> None:
    """Refuse what is no name of a function: an object would stand in the plan."""
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
        hint="Install its module on the workers, or send it there: addPyFile.",
    )


strip_tracebacks(globals())
