"""``uid2 doctor`` prints what was found, and ends with a code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from uid2_async.operator import LocalOperator

Uid2 = Callable[..., Any]


def test_all_is_well(uid2: Uid2, env: dict[str, str]) -> None:
    """One line for each check, nothing else, and no secret."""
    result = uid2("doctor", env=env)
    lines = result.stdout.splitlines()

    assert (result.exit_code, result.stderr) == (0, "")
    assert len(lines) == 15
    assert {line.split()[0] for line in lines} == {"ok"}
    assert env["UID2_API_KEY"] not in result.output
    assert env["UID2_SECRET_KEY"] not in result.output


def test_a_cause(uid2: Uid2, env: dict[str, str]) -> None:
    """What failed is named with what to do, and what it makes meaningless skipped."""
    result = uid2("doctor", env=env | {"UID2_SECRET_KEY": "A" * 43 + "="})
    lines = result.stdout.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("failed"))

    assert result.exit_code == 4
    assert lines[at].split(maxsplit=1)[1].startswith("client secret")
    assert lines[at + 1].strip().startswith("-> Copy both from the same place")
    assert lines[at + 2].endswith("It would tell nothing: client secret failed.")
    assert result.stderr == "uid2: Failed: client secret.\n"


@pytest.mark.parametrize("scope", ["uid2", "euid"])
def test_json(uid2: Uid2, scope: str) -> None:
    """The same for programs; the sandbox needs no settings."""
    result = uid2("doctor", "--sandbox", "--scope", scope, "--json")
    report = json.loads(result.stdout)

    assert (result.exit_code, report["outcome"]) == (0, "ok")
    assert report["scope"] == scope.upper()
    assert [one["check"] for one in report["checks"]][:2] == ["settings", "base_url"]
    assert set(report["checks"][0]) == {"check", "outcome", "message", "hint"}


@pytest.mark.parametrize(
    ("change", "code", "outcome"),
    [
        ({"UID2_CLIENT_SECRET": "x"}, 0, "warning"),
        ({"UID2_BASE_URL": "ftp://x"}, 1, "failed"),
        ({"UID2_API_KEY": "unknown"}, 4, "failed"),
    ],
)
def test_codes(
    uid2: Uid2, env: dict[str, str], change: dict[str, str], code: int, outcome: str
) -> None:
    """Warnings end with 0, failures with 1, and with 4 where key or secret is wrong."""
    result = uid2("doctor", "--json", env=env | change)

    assert result.exit_code == code
    assert json.loads(result.stdout)["outcome"] == outcome


@pytest.mark.parametrize(("role", "code"), [("generator", 0), ("sharer", 4)])
def test_needed_roles(
    uid2: Uid2, local_operator: LocalOperator, role: str, code: int
) -> None:
    """A role that is needed and missing is a failure."""
    publisher = local_operator.credentials["publisher"]
    env = {
        "UID2_BASE_URL": local_operator.url,
        "UID2_API_KEY": publisher.api_key,
        "UID2_SECRET_KEY": publisher.client_secret,
    }

    assert uid2("doctor", "--need", role, env=env).exit_code == code


def test_nothing_is_printed_twice(uid2: Uid2, env: dict[str, str]) -> None:
    """An operator over plain http is a warning of the check, and of nothing else."""
    env["UID2_BASE_URL"] = "http://operator.invalid"
    result = uid2("doctor", env=env | {"UID2_ALLOW_HTTP": "1"})

    assert result.output.count("travels in clear") == 1
