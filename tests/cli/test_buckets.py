"""``uid2 buckets``: which buckets rotated, one a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from uid2_async.operator import LocalOperator

Uid2 = Callable[..., Any]

NOTE = "uid2: note: identity/buckets is deprecated"


@pytest.fixture
def since(local_operator: LocalOperator) -> str:
    """Give a day after which some buckets rotated."""
    return (local_operator.now - timedelta(days=60)).date().isoformat()


def test_json_lines(uid2: Uid2, env: dict[str, str], since: str) -> None:
    """Each line is a JSON object; that the endpoint ends is one line on stderr."""
    result = uid2("buckets", "--since", since, env=env)
    buckets = [json.loads(line) for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert buckets
    assert all(one.keys() == {"bucket_id", "last_updated"} for one in buckets)
    assert min(one["last_updated"] for one in buckets) >= since
    (line,) = result.stderr.splitlines()
    assert line.startswith(NOTE)


def test_csv(uid2: Uid2, env: dict[str, str], since: str) -> None:
    """The same as CSV."""
    lines = uid2("buckets", "--since", since, env=env).stdout.splitlines()
    result = uid2("buckets", "--since", since, "--format", "csv", env=env)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))

    assert rows == [json.loads(line) for line in lines]


def test_zones(uid2: Uid2, env: dict[str, str], since: str) -> None:
    """A time without zone is UTC."""
    east = datetime.fromisoformat(since).replace(tzinfo=UTC) + timedelta(hours=2)
    texts = (since, f"{since}T00:00Z", east.strftime("%Y-%m-%dT%H:%M+02:00"))
    outputs = {uid2("buckets", "--since", one, env=env).stdout for one in texts}

    assert len(outputs) == 1


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01"])
def test_no_time(uid2: Uid2, env: dict[str, str], text: str) -> None:
    """What is no time is refused before anything is sent."""
    result = uid2("buckets", "--since", text, env=env)

    assert result.exit_code == 2
    assert "not an ISO 8601 time" in result.stderr


def test_sandbox(uid2: Uid2) -> None:
    """The sandbox has buckets, too."""
    result = uid2("buckets", "--since", "2000-01-01", "--sandbox", "--scope", "euid")

    assert len(result.stdout.splitlines()) >= 1000
