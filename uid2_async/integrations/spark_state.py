"""The state of a mapping in a Delta or Iceberg table: columns, rules in SQL, changes.

The rules are those of the state in SQLite (``uid2_async.bulk.state_rows``). Exports are
recorded differently, so that the first load does not have to be written twice. The
table has a property with the time of the last exported run, and each row records what
the exports before its last change contained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.exports import DELTA_COLUMNS
from uid2_async.bulk.state_db import CHANGE
from uid2_async.bulk.state_rows import PREVIOUS_SINCE, PREVIOUS_UID, TO_ASK
from uid2_async.bulk.state_values import RETENTION_SECONDS
from uid2_async.errors import ConfigError, InputError, JobError
from uid2_async.integrations.arrow import IdentityColumns, hash_identities

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

HASHED: Final = "INPUT_TYPE string, IDENTITY_HASH string"
"""The columns that :class:`HashTask` returns."""

_COLUMNS: Final = {
    "INPUT_TYPE": "string",
    "IDENTITY_HASH": "string",
    "UID": "string",
    "PREV_UID": "string",
    "PREV_SINCE": "timestamp",
    "REFRESH_FROM": "timestamp",
    "UNMAPPED": "string",
    "CHECKED": "timestamp",
    "CHANGE": "string",
    "OLD_UID": "string",
    "CHANGED": "timestamp",
}
_KEY: Final = ("INPUT_TYPE", "IDENTITY_HASH")
_EXPORTED: Final = "uid2.exported"
_PARAMETER: Final = re.compile(r":([a-z]\w*)")
# A daily run changes a few rows of every file. Without deletion vectors, Delta would
# rewrite all of the files. In Iceberg, the same is called merge-on-read.
_PROPERTIES: Final = {
    "delta": "'delta.enableDeletionVectors' = 'true'",
    "iceberg": "'format-version' = '2', 'write.merge.mode' = 'merge-on-read', "
    "'write.update.mode' = 'merge-on-read'",
}

# The columns of the table, under the names in the rules.
_KNOWN: Final = """SELECT INPUT_TYPE AS kind, IDENTITY_HASH AS identity, UID AS uid,
    PREV_UID AS previous_uid, unix_seconds(PREV_SINCE) AS previous_since,
    unix_seconds(REFRESH_FROM) AS refresh_from, lower(UNMAPPED) AS reason,
    unix_seconds(CHECKED) AS checked, CHECKED AS seen, CHANGE AS change,
    OLD_UID AS old_uid, unix_seconds(CHANGED) AS changed, NULL AS removed
    FROM {table}"""
_DUE: Final = f"""SELECT INPUT_TYPE, IDENTITY_HASH, count, struct(uid, previous_uid,
        previous_since, seen, change, old_uid, changed) AS m
    FROM {{people}} LEFT JOIN {{known}}
    ON INPUT_TYPE = kind AND IDENTITY_HASH = identity
    WHERE {TO_ASK}"""
_ANSWERS: Final = """SELECT INPUT_TYPE, IDENTITY_HASH, m, struct(UID AS uid,
        PREV_UID AS previous_uid, unix_seconds(REFRESH_FROM) AS refresh_from,
        lower(UNMAPPED) AS reason, UNMAPPED AS unmapped) AS excluded
    FROM {answers} WHERE ERROR IS NULL AND IDENTITY_HASH IS NOT NULL"""
# What exports contained for a row: a UID, '' for opted out, or NULL for nothing.
_SAID: Final = """CASE WHEN m.changed > :exported THEN m.old_uid
    WHEN m.uid IS NOT NULL THEN m.uid
    WHEN m.change = 'OPTED_OUT' OR m.old_uid = '' THEN '' END"""
# If the UID of a row does not change, what was exported does not change either,
# unless it is pending: whether a person opted out or is invalid may change until it is
# exported.
_CHANGED_ROWS: Final = f"""SELECT *,
    excluded.uid AS uid, excluded.reason AS reason, {_SAID} AS said,
    CASE WHEN excluded.uid IS NOT NULL THEN {PREVIOUS_UID} END AS previous_uid,
    CASE WHEN excluded.uid IS NOT NULL THEN {PREVIOUS_SINCE} END AS previous_since,
    m.changed IS NOT NULL AND m.uid <=> excluded.uid AS same
    FROM {{answers}}"""
_ROWS: Final = f"""SELECT INPUT_TYPE, IDENTITY_HASH, uid AS UID,
    previous_uid AS PREV_UID, timestamp_seconds(previous_since) AS PREV_SINCE,
    timestamp_seconds(excluded.refresh_from) AS REFRESH_FROM,
    excluded.unmapped AS UNMAPPED, timestamp_seconds(:started) AS CHECKED,
    CASE WHEN same AND m.changed <= :exported THEN m.change
        ELSE {CHANGE.format(said="said")} END AS CHANGE,
    CASE WHEN same THEN m.old_uid ELSE said END AS OLD_UID,
    timestamp_seconds(CASE WHEN same THEN m.changed ELSE :started END) AS CHANGED,
    m.seen AS SEEN
    FROM {{rows}}"""
# Rows that another run has written in the meantime are kept.
_MERGE: Final = f"""MERGE INTO {{name}} AS m USING {{rows}} AS n
    ON {" AND ".join(f"m.{key} = n.{key}" for key in _KEY)}
    WHEN MATCHED AND m.CHECKED <=> n.SEEN THEN UPDATE SET
        {", ".join(f"{one} = n.{one}" for one in _COLUMNS if one not in _KEY)}
    WHEN NOT MATCHED THEN INSERT ({", ".join(_COLUMNS)})
        VALUES ({", ".join(f"n.{one}" for one in _COLUMNS)})"""
# An export has reported that these UIDs were replaced.
_OUTDATED: Final = "(OLD_UID > '' AND CHANGED <= timestamp_seconds(:exported))"
_EXPIRE: Final = f"""UPDATE {{name}} SET
    PREV_UID = CASE WHEN unix_seconds(PREV_SINCE) > :before THEN PREV_UID END,
    PREV_SINCE = CASE WHEN unix_seconds(PREV_SINCE) > :before THEN PREV_SINCE END,
    OLD_UID = CASE WHEN {_OUTDATED} THEN NULL ELSE OLD_UID END
    WHERE PREV_SINCE <= timestamp_seconds(:before) OR {_OUTDATED}"""
_PENDING: Final = f"""SELECT {", ".join(DELTA_COLUMNS[:-1])},
    nullif(OLD_UID, '') AS OLD_UID FROM {{table}}
    WHERE CHANGE IS NOT NULL AND CHANGED > timestamp_seconds(:exported)"""


@attrs.frozen
class HashTask:
    """Converts identities to types and first-level hashes on the workers."""

    wanted: IdentityColumns

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Hash the batches of one task."""
        for batch in batches:
            yield hash_identities(batch, self.wanted)


@attrs.frozen
class MappingTable:
    """An open table with a mapping state."""

    spark: SparkSession
    name: str

    @classmethod
    def open(cls, spark: SparkSession, table: str, table_format: str) -> MappingTable:
        """Open a table by its name or, for Delta, its path, or create it.

        Raises:
            ConfigError: If *table_format*, that of a new table, is unknown, or if a
                path is relative, which each program resolves differently.
            InputError: If the table lacks columns.
        """
        if table_format not in _PROPERTIES:
            raise ConfigError("table_format must be 'delta' or 'iceberg'.")
        is_path = "/" in table
        if is_path and not table.startswith("/") and ":" not in table.partition("/")[0]:
            raise ConfigError(
                "The path of a Delta table must be absolute, or a URL.",
                hint="Write it like /data/uid2_mapping or s3://bucket/uid2_mapping.",
            )
        name = f"delta.`{table}`" if is_path else table
        if is_path or not spark.catalog.tableExists(name):
            columns = ", ".join(f"{one} {kind}" for one, kind in _COLUMNS.items())
            spark.sql(
                f"CREATE TABLE IF NOT EXISTS {name} ({columns}) USING {table_format}"
                f" TBLPROPERTIES ({_PROPERTIES[table_format]})"
            )
        there = {column.upper() for column in spark.table(name).columns}
        missing = [column for column in _COLUMNS if column not in there]
        if missing:
            raise InputError(
                f"The table {table} lacks the columns {', '.join(missing)}.",
                hint="Use another table, which is created if it does not exist. Or add "
                "the columns: "
                + ", ".join(f"{one} {_COLUMNS[one]}" for one in missing),
            )
        return cls(spark, name)

    def exported(self) -> int:
        """Return the start of the last exported run in seconds, or -1 if none."""
        properties = self.spark.sql(f"SHOW TBLPROPERTIES {self.name}").collect()
        return int(dict(map(tuple, properties)).get(_EXPORTED, -1))

    def select_due(self, people: DataFrame, given: Mapping[str, int]) -> DataFrame:
        """Select the distinct identities in *people* to ask the operator about.

        Their row in the table is the column ``m``.
        """
        known = self._query(_KNOWN, {}, table=self.spark.table(self.name))
        return self._query(_DUE, given, people=people, known=known)

    def merge(self, answers: DataFrame, given: Mapping[str, int]) -> None:
        """Apply the results for the identities that :meth:`select_due` selected."""
        answered = self._query(_ANSWERS, {}, answers=answers)
        rows = self._query(_CHANGED_ROWS, given, answers=answered)
        rows = self._query(_ROWS, given, rows=rows)
        self._query(_MERGE, {}, rows=rows)

    def expire(self, given: Mapping[str, int]) -> None:
        """Remove previous UIDs after 90 days, and UIDs whose change was exported."""
        before = given["started"] - RETENTION_SECONDS
        self._query(_EXPIRE, {**given, "before": before})

    def changes(self, exported: int) -> DataFrame:
        """Return the changes since the run that began at *exported*."""
        table = self.spark.table(self.name)
        return self._query(_PENDING, {"exported": exported}, table=table)

    def mark_exported(self, started: int) -> None:
        """Record that all changes of runs up to *started* have been exported.

        Raises:
            JobError: If a later run has changed the table.
        """
        if not self.changes(started).isEmpty():
            raise JobError(
                "A later run has changed the table. Its changes include these.",
                hint="Export the changes of the last run, and mark that one exported.",
            )
        if started > self.exported():
            self.spark.sql(
                f"ALTER TABLE {self.name} SET TBLPROPERTIES"
                f" ('{_EXPORTED}' = '{started}')"
            )

    def _query(self, text: str, given: Mapping[str, int], **frames: Any) -> DataFrame:
        """Run a query, or a statement on ``{name}``, with numbers and DataFrames.

        Spark 4.1 does not bind parameters if DataFrames are passed, too.
        """
        text = _PARAMETER.sub(lambda found: str(given[found[1]]), text)
        return self.spark.sql(text.replace("{name}", self.name), **frames)


strip_tracebacks(globals())
