"""Map a CSV file into a Delta table, day by day, with Spark.

    pip install '.[spark]' 'pyspark~=4.1.0'
    python examples/spark_daily.py examples/customers.csv /tmp/uid2_mapping

Run it again: it asks only about identities that are new, due or long unchecked. It uses
the operator that the environment names (UID2_BASE_URL and so on), such as that of
``uid2 sandbox``, or else an embedded one. The file has columns INPUT and INPUT_TYPE.

On Databricks, run daily() as a job. The cluster has the session, Delta and a fixed
number of workers, which set how many tasks share the 20 requests in flight. Install the
package on the cluster, store key and secret in a secret scope, and name them in
the cluster's environment:

    UID2_BASE_URL=https://prod.uidapi.com
    UID2_API_KEY={{secrets/uid2/api-key}}
    UID2_SECRET_KEY={{secrets/uid2/client-secret}}

or pass credentials="my_company.secrets:uid2", a function on the workers that returns a
client. A job retries failed tasks automatically, which is safe, and runs once at a time
(max_concurrent_runs: 1).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from uid2_async.integrations.spark import local_session, map_incrementally
from uid2_async.operator import LocalOperator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# A cluster has it already. The first number, 4.1, must be that of Spark.
DELTA = {
    "spark.jars.packages": "io.delta:delta-spark_4.1_2.13:4.4.0",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": (
        "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    ),
    "spark.sql.shuffle.partitions": "4",
    "spark.databricks.delta.snapshotPartitions": "2",
}


def daily(people: DataFrame, table: str, *, credentials: str | None = None) -> None:
    """Update *table* with *people*, and append the changes to another table."""
    run = map_incrementally(people, table, credentials=credentials)
    print(f"asked {run.asked}, failed {run.failed}, invalid rows {run.invalid}")
    # The next day's changes do not include those marked here. If this job ends earlier,
    # they are returned again.
    run.changes.write.format("delta").mode("append").save(f"{table}_changes")
    run.changes.groupBy("CHANGE").count().orderBy("CHANGE").show()
    run.mark_exported()


def main(source: str, table: str) -> None:
    """Run the job on this machine."""
    # Before Spark starts: its workers inherit the environment.
    with operator(), local_session(2, config=DELTA) as spark:
        daily(spark.read.csv(source, header=True, escape='"', multiLine=True), table)


def operator() -> AbstractContextManager[None]:
    """Use the operator that the environment names, or run one."""
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        return nullcontext()
    return embedded_operator()


@contextmanager
def embedded_operator() -> Iterator[None]:
    """Run an operator in this process, and name it in the environment."""
    with LocalOperator.in_thread() as running:
        os.environ["UID2_BASE_URL"] = running.url
        os.environ["UID2_API_KEY"] = running.api_key
        os.environ["UID2_SECRET_KEY"] = running.client_secret
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
