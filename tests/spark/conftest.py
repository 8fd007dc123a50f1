"""Spark on this machine, and an operator in its driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uid2_async.integrations.spark import local_session
from uid2_async.operator import LocalOperator

# What the workers import: a module of their own, which is no part of the plan.
CREDENTIALS = """
import os
from uid2_async import UID2Client

def small_batches():
    return UID2Client.from_env(max_batch_size=100)

def arguments():
    return {
        "base_url": os.environ["UID2_BASE_URL"],
        "api_key": os.environ["UID2_API_KEY"],
        "client_secret": os.environ["UID2_SECRET_KEY"],
    }

def wrong_key():
    return {**arguments(), "api_key": "nobody"}

def nothing():
    return None
"""


# The newest Spark for which both formats have a release is 4.1 (noxfile.py). Spark
# fetches them once, without what it contains itself.
SCALA_SPARK = "4.1_2.13"
FORMATS = {
    "spark.jars.packages": f"io.delta:delta-spark_{SCALA_SPARK}:4.4.0,"
    f"org.apache.iceberg:iceberg-spark-runtime-{SCALA_SPARK}:1.12.0",
    "spark.jars.excludes": "org.apache.hadoop:hadoop-client-api,"
    "org.apache.hadoop:hadoop-client-runtime,org.apache.parquet:parquet-hadoop",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": (
        "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    ),
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.catalog.ice": "org.apache.iceberg.spark.SparkCatalog",
    "spark.sql.catalog.ice.type": "hadoop",
    "spark.sql.shuffle.partitions": "2",
    # Most time goes into compiling small queries, first by Spark, then by Java.
    "spark.sql.codegen.wholeStage": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.ui.showConsoleProgress": "false",
}


@pytest.fixture(scope="session")
def started() -> Iterator[LocalOperator]:
    """Run one operator for all sessions, whose Java inherits the environment once."""
    with LocalOperator.in_thread() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UID2_BASE_URL", running.url)
        patch.setenv("UID2_API_KEY", running.api_key)
        patch.setenv("UID2_SECRET_KEY", running.client_secret)
        yield running


@pytest.fixture
def operator(started: LocalOperator) -> Iterator[LocalOperator]:
    """Give the operator as new."""
    started.reset()
    yield started
    started.reset()


@pytest.fixture(scope="module", params=[2, 4], ids="{}-tasks".format)
def spark(
    request: pytest.FixtureRequest,
    started: LocalOperator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """Open a session that runs 2 tasks at once, then one that runs 4."""
    pytest.importorskip("pyspark")
    module = tmp_path_factory.mktemp("workers") / "worker_credentials.py"
    Path(module).write_text(CREDENTIALS, encoding="utf-8")
    warehouse = str(tmp_path_factory.mktemp("warehouse"))
    places = {
        "spark.sql.warehouse.dir": warehouse,
        "spark.sql.catalog.ice.warehouse": warehouse,
    }
    with local_session(request.param, config={**FORMATS, **places}) as session:
        session.sparkContext.setLogLevel("OFF")
        session.sparkContext.addPyFile(str(module))
        yield session
