"""Map a CSV file with Spark into a folder of Parquet files.

    python examples/spark_job.py examples/customers.csv /tmp/mapped

It uses the operator that the environment names (UID2_BASE_URL and so on), or else an
embedded one. The file has the columns INPUT and INPUT_TYPE.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from uid2_async.integrations.spark import local_session, map_dataframe
from uid2_async.operator import LocalOperator


def main(source: str, target: str) -> None:
    """Map *source*, and show the number of rows by outcome."""
    # Before Spark starts: its workers inherit the environment.
    with operator(), local_session(4) as spark:
        rows = spark.read.csv(source, header=True, escape='"', multiLine=True)
        map_dataframe(rows).write.mode("overwrite").parquet(target)

        # Read the written files: counting map_dataframe's result would map again.
        mapped = spark.read.parquet(target)
        mapped.groupBy("UNMAPPED", "ERROR").count().orderBy("UNMAPPED").show()


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
