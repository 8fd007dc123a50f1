"""What Spark's tasks do, without Spark."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from uid2_async import IdentityScope
from uid2_async.errors import ConfigError
from uid2_async.integrations.arrow import IdentityColumns
from uid2_async.integrations.spark import MapTask, euid_from_env, local_session
from uid2_async.operator import Fault, LocalOperator

pa: Any = pytest.importorskip("pyarrow")

WANTED = IdentityColumns(column="mail", kind="email", names="snake")


@pytest.fixture
def credentials(
    operator: LocalOperator, scope: IdentityScope, monkeypatch: pytest.MonkeyPatch
) -> str | None:
    """Name the operator where a worker looks; EUID's variables are read on request."""
    monkeypatch.setenv(f"{scope}_BASE_URL", operator.url)
    monkeypatch.setenv(f"{scope}_API_KEY", operator.api_key)
    monkeypatch.setenv(f"{scope}_SECRET_KEY", operator.client_secret)
    euid = scope is IdentityScope.EUID
    return "uid2_async.integrations.spark:euid_from_env" if euid else None


def make_task(credentials: str | None = None) -> MapTask:
    """Make a task as a worker gets it."""
    task = MapTask(wanted=WANTED, concurrency=3, credentials=credentials)
    return pickle.loads(pickle.dumps(task))  # noqa: S301 - our own object


def batches(count: int, rows: int = 5_000) -> Iterator[Any]:
    """Make batches of different people."""
    for at in range(count):
        yield pa.record_batch(
            {"mail": [f"p{at}.{row}@example.com" for row in range(rows)]}
        )


def test_a_task_maps_its_batches(
    operator: LocalOperator, credentials: str | None
) -> None:
    """With its share of the limit, and no more in flight."""
    # Long enough for three batches to be made meanwhile, on a busy machine too.
    operator.fail_next(Fault(delay=0.8), times=100)

    found = list(make_task(credentials)(batches(6)))

    assert [one.num_rows for one in found] == [5_000] * 6
    assert sum(one["uid"].null_count for one in found) == 0
    assert operator.most_in_flight == 3


def test_a_task_that_is_closed_leaves_no_thread(
    operator: LocalOperator, credentials: str | None
) -> None:
    """Neither its own nor a request."""
    operator.fail_next(Fault(delay=0.1), times=100)
    mapped: Any = make_task(credentials)(batches(1_000))

    next(mapped)
    mapped.close()

    assert "uid2-stream" not in {one.name for one in threading.enumerate()}


def test_a_task_without_settings_says_which_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the first thing that it does."""
    for name in ("UID2_BASE_URL", "UID2_ENV"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigError, match="UID2_BASE_URL"):
        list(make_task()(batches(1)))


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
def test_euid_is_named_by_a_function_of_ours(
    operator: LocalOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the variables of EUID."""
    monkeypatch.setenv("EUID_BASE_URL", operator.url)
    monkeypatch.setenv("EUID_API_KEY", "EUID-C-L-1-key")
    monkeypatch.setenv("EUID_SECRET_KEY", operator.client_secret)

    assert euid_from_env().scope is IdentityScope.EUID


def test_without_pyspark_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is a command to run."""
    monkeypatch.setitem(sys.modules, "pyspark", None)

    with pytest.raises(ConfigError) as caught:
        local_session()

    assert "uid2-async[spark]" in caught.value.hint
