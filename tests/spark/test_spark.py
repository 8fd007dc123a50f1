"""DataFrames mapped by tasks of a real Spark, against an operator in the driver."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from base64 import b64decode
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from uid2_async import EmailHash, MappedUID, Phone, UID2Client, UnmappedReason
from uid2_async.errors import ConfigError, InputError
from uid2_async.integrations.spark import map_dataframe
from uid2_async.models import Email, Identity
from uid2_async.operator import Fault, LocalOperator

pytestmark = [
    pytest.mark.spark,
    # pyspark says this of each pandas from 3 on, though it uses none of it here.
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully:FutureWarning"),
]

ROOT = Path(__file__).parents[2]
WORKER = "worker_credentials"
EXPLAINED = {
    UnmappedReason.OPTED_OUT: "OPTOUT",
    UnmappedReason.INVALID_IDENTIFIER: "INVALID IDENTIFIER",
}
MAKERS = {"email": Email, "phone": Phone, "email_hash": EmailHash}


def people(spark: Any, count: int) -> Any:
    """Make a DataFrame of email addresses."""
    return spark.range(count).selectExpr(
        "id", "concat('person', id, '@example.com') as mail"
    )


def ask(operator: LocalOperator, identities: list[Identity]) -> list[Any]:
    """Map identities in one call, without Spark."""

    async def run() -> list[Any]:
        async with UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
        ) as client:
            return list(await client.map_identities(identities))

    return asyncio.run(run())


def expect(result: Any) -> tuple[Any, ...]:
    """Say what a row's added columns must be."""
    if not isinstance(result, MappedUID):
        return None, None, None, EXPLAINED[result.reason], None
    due = result.refresh_from
    assert due is not None
    return result.raw_uid, result.previous_raw_uid, due.timestamp(), None, None


def test_rows_are_those_of_a_direct_call(spark: Any, operator: LocalOperator) -> None:
    """Mapped, opted out, invalid and repeated ones, each with its own columns."""
    operator.opt_out("person7@example.com")
    hashed = "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="
    rows: list[tuple[int, str, str]] = [
        *((n, f"person{n % 900}@example.com", "email") for n in range(1_000)),
        *((n, f"+1234567{n}", "PHONE ") for n in range(1_000, 1_100)),
        *((n, "nobody", "email") for n in range(1_100, 1_110)),
        (1_110, hashed, "email_hash"),
    ]
    df = spark.createDataFrame(rows, "id long, input string, input_type string")

    found = map_dataframe(df).collect()

    asked = [MAKERS[kind.strip().lower()](value) for _, value, kind in rows]
    wanted = dict(zip(rows, map(expect, ask(operator, asked)), strict=True))
    assert len(found) == len(rows)
    assert {
        tuple(row[:3]): (
            *row[3:5],
            row.REFRESH_FROM and row.REFRESH_FROM.replace(tzinfo=UTC).timestamp(),
            *row[6:],
        )
        for row in found
    } == wanted
    assert sum(row.UNMAPPED == "OPTOUT" for row in found) == 2


def test_rows_without_identity_or_type_stay(
    spark: Any, operator: LocalOperator
) -> None:
    """Null and a type that nobody knows are answers, and nobody is asked."""
    rows = [(None, "email"), ("", "email"), ("a@example.com", "cookie"), ("a", None)]
    df = spark.createDataFrame(rows, "INPUT string, INPUT_TYPE string")

    found = map_dataframe(df, names="snake").collect()

    assert {(row.INPUT, row.unmapped, row.error, row.uid) for row in found} == {
        (None, "INVALID IDENTIFIER", None, None),
        ("", "INVALID IDENTIFIER", None, None),
        ("a@example.com", "INVALID INPUT TYPE", None, None),
        ("a", "INVALID INPUT TYPE", None, None),
    }
    assert operator.calls == []


def test_the_tasks_share_the_budget(spark: Any, operator: LocalOperator) -> None:
    """All of it is used, and never more; each identity is asked about once."""
    operator.fail_next(Fault(delay=0.2), times=1_000)

    mapped = map_dataframe(
        people(spark, 20_000),
        column="mail",
        type="email",
        credentials=f"{WORKER}:small_batches",
    )

    assert mapped.where("UID is not null").count() == 20_000
    assert operator.most_in_flight == 20
    assert sum(call.items for call in operator.calls) == 20_000
    assert {call.status for call in operator.calls} == {200}


def test_more_tasks_than_run_at_once_leave_budget_unused(
    spark: Any, operator: LocalOperator
) -> None:
    """Seven tasks may have two requests in flight each, of a budget of 20."""
    operator.fail_next(Fault(delay=0.1), times=1_000)
    cores = spark.sparkContext.defaultParallelism

    mapped = map_dataframe(
        people(spark, 7_000),
        column="mail",
        type="email",
        tasks=7,
        credentials=f"{WORKER}:small_batches",
    )

    assert mapped.rdd.getNumPartitions() == 7
    assert mapped.where("UID is not null").count() == 7_000
    assert operator.most_in_flight == 2 * cores


def test_the_plan_holds_no_secret(spark: Any, operator: LocalOperator) -> None:
    """Neither as text nor in what is sent to the workers."""
    mapped = map_dataframe(people(spark, 10), column="mail", type="email")

    execution = mapped._jdf.queryExecution()
    function = execution.logical().productElement(0).func()
    command = bytes(
        int(byte) & 0xFF for byte in function.command().mkString(",").split(",")
    )
    environment = str(function.envVars())
    shown = execution.toString() + execution.logical().treeString() + environment
    secret = operator.client_secret
    assert b"MapTask" in command
    assert "MapTask" in shown
    for text in (operator.api_key, secret):
        assert text.encode() not in command
        assert text not in shown
    assert b64decode(secret) not in command


@pytest.mark.parametrize("name", ["arguments", "small_batches"])
def test_a_function_of_the_workers_gives_the_client(
    spark: Any, operator: LocalOperator, name: str
) -> None:
    """It returns a client, or the arguments of one."""
    mapped = map_dataframe(
        people(spark, 10), column="mail", type="email", credentials=f"{WORKER}:{name}"
    )

    assert mapped.where("UID is not null").count() == 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"{WORKER}:wrong_key", "AuthError"),
        (f"{WORKER}:nothing", "returned neither a UID2Client nor its arguments"),
        (f"{WORKER}:missing", f"A worker cannot import {WORKER}:missing"),
        ("no_such_module:function", "A worker cannot import no_such_module:function"),
    ],
)
def test_what_would_meet_all_rows_ends_the_job(
    spark: Any, operator: LocalOperator, name: str, says: str
) -> None:
    """Spark's error says why, and shows no secret and nobody's address."""
    from pyspark.errors import PySparkException  # noqa: PLC0415 - needs pyspark

    mapped = map_dataframe(
        people(spark, 10), column="mail", type="email", credentials=name
    )

    with pytest.raises(PySparkException, match=says) as caught:
        mapped.collect()

    text = str(caught.value)
    assert operator.client_secret not in text
    assert "@example.com" not in text


def test_a_failed_request_leaves_failed_rows(
    spark: Any, operator: LocalOperator
) -> None:
    """They are neither mapped nor unmapped; the other task's rows are whole."""
    operator.fail_next(Fault(status=400, body="{}"))

    mapped = map_dataframe(people(spark, 100), column="mail", type="email", tasks=2)

    found = mapped.collect()
    failed = [row for row in found if row.ERROR]
    assert len(found) == 100
    assert len(failed) == 50
    assert {(row.UID, row.UNMAPPED, row.ERROR) for row in failed} == {
        (None, None, "BadRequestError 400")
    }
    assert sum(row.UID is not None for row in found) == 50


def test_a_task_that_is_stopped_early_leaves_nothing(
    spark: Any, operator: LocalOperator
) -> None:
    """Spark closes a task that need not go on; the next job is not disturbed."""
    mapped = map_dataframe(people(spark, 50_000), column="mail", type="email")

    assert len(mapped.limit(3).collect()) == 3
    assert len(mapped.take(3)) == 3


def test_partitions_are_left_alone_if_they_fit(
    spark: Any, operator: LocalOperator
) -> None:
    """More of them than the budget allows are refused before anything runs."""
    df = people(spark, 100).repartition(5)
    options: Any = {"column": "mail", "type": "email", "repartition": False}

    mapped = map_dataframe(df, **options)

    assert mapped.rdd.getNumPartitions() == 5
    assert mapped.where("UID is not null").count() == 100
    with pytest.raises(ConfigError, match="5 tasks cannot share a budget of 4"):
        map_dataframe(df, budget=4, **options)
    with pytest.raises(ConfigError, match="5 tasks cannot share a budget of 4"):
        map_dataframe(df, budget=4, tasks=5, column="mail", type="email")
    with pytest.raises(ConfigError, match="leaves the partitions as they are"):
        map_dataframe(df, tasks=5, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"column": "nosuch", "type": "email"}, InputError),
        ({"column": "id", "type": "email"}, InputError),
        ({"column": "mail"}, InputError),
        ({"column": "mail", "type": "e-mail"}, InputError),
        ({"column": "mail", "type": "email", "names": "camel"}, InputError),
        ({"column": "mail", "type": "email", "budget": 0}, ConfigError),
        ({"column": "mail", "type": "email", "tasks": 0}, ConfigError),
        ({"column": "mail", "type": "email", "credentials": dict}, ConfigError),
        ({"column": "mail", "type": "email", "credentials": "module"}, ConfigError),
    ],
)
def test_what_cannot_work_is_refused_in_the_driver(
    spark: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    """Before any task is started."""
    with pytest.raises(error):
        map_dataframe(people(spark, 1), **options)


def test_a_result_is_not_mapped_over(spark: Any) -> None:
    """Added columns that are there already would be lost."""
    df = people(spark, 1).selectExpr("mail", "'x' as uid")

    with pytest.raises(InputError, match="already has"):
        map_dataframe(df, column="mail", type="email")


def test_the_example_maps_the_demo_data(tmp_path: Path) -> None:
    """With an operator of its own; all of the rows are accounted for."""
    example = ROOT / "examples" / "spark_job.py"
    done = subprocess.run(  # noqa: S603 - our own example
        [sys.executable, str(example), "examples/customers.csv", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 0, done.stderr
    assert "OPTOUT" in done.stdout
    assert list((tmp_path / "out").glob("*.parquet"))


def test_without_java_it_says_which_is_needed() -> None:
    """The hint names the version."""
    code = (
        "from uid2_async.integrations.spark import local_session\n"
        "from uid2_async.errors import ConfigError\n"
        "try:\n    local_session()\n"
        "except ConfigError as error:\n    print(error.hint)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"JAVA_HOME": "/nonexistent"},
    )

    assert "Java 17" in done.stdout, done.stderr
