"""``uid2 doctor`` prints what was found, and ends with a code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from uid2_async import IdentityScope

Uid2 = Callable[..., Any]


def test_all_is_well(uid2: Uid2, scope: IdentityScope, env: dict[str, str]) -> None:
    """One line for each check, nothing else, and no secret."""
    result = uid2("doctor", env=env)
    lines = result.stdout.splitlines()

    assert (result.exit_code, result.stderr) == (0, "")
    assert len(lines) == 15
    assert {line.split()[0] for line in lines} == {"ok"}
    assert env[f"{scope}_API_KEY"] not in result.output
    assert env[f"{scope}_SECRET_KEY"] not in result.output


def test_a_cause(uid2: Uid2, scope: IdentityScope, env: dict[str, str]) -> None:
    """What failed is named with what to do, and what it makes meaningless skipped."""
    result = uid2("doctor", env=env | {f"{scope}_SECRET_KEY": "A" * 43 + "="})
    lines = result.stdout.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("failed"))

    assert result.exit_code == 4
    assert lines[at].split(maxsplit=1)[1].startswith("client secret")
    assert lines[at + 1].strip().startswith("-> Copy both from the same place")
    assert lines[at + 2].endswith('Requires "client secret", which failed.')
    assert result.stderr == "uid2: Failed: client secret.\n"


def test_json(uid2: Uid2, scope: IdentityScope) -> None:
    """The same for programs; the sandbox needs no settings."""
    result = uid2("doctor", "--sandbox", "--scope", scope.lower(), "--json")
    report = json.loads(result.stdout)

    assert (result.exit_code, report["outcome"]) == (0, "ok")
    assert report["scope"] == scope
    assert [one["check"] for one in report["checks"]][:2] == ["settings", "base_url"]
    assert set(report["checks"][0]) == {"check", "outcome", "message", "hint"}


@pytest.mark.parametrize(
    ("name", "value", "code", "outcome"),
    [
        ("CLIENT_SECRET", "x", 0, "warning"),
        ("BASE_URL", "ftp://x", 1, "failed"),
        ("API_KEY", "unknown", 4, "failed"),
    ],
)
def test_codes(
    uid2: Uid2,
    scope: IdentityScope,
    env: dict[str, str],
    name: str,
    value: str,
    code: int,
    outcome: str,
) -> None:
    """Warnings end with 0, failures with 1, and with 4 where key or secret is wrong."""
    result = uid2("doctor", "--json", env=env | {f"{scope}_{name}": value})

    assert result.exit_code == code
    assert json.loads(result.stdout)["outcome"] == outcome


@pytest.mark.parametrize(("role", "code"), [("generator", 0), ("sharer", 4)])
def test_needed_roles(
    uid2: Uid2, env_of: Callable[[str], dict[str, str]], role: str, code: int
) -> None:
    """A role that is needed and missing is a failure."""
    result = uid2("doctor", "--need", role, env=env_of("publisher"))

    assert result.exit_code == code


def test_nothing_is_printed_twice(
    uid2: Uid2, scope: IdentityScope, env: dict[str, str]
) -> None:
    """An operator over plain http is a warning of the check, and of nothing else."""
    env[f"{scope}_BASE_URL"] = "http://operator.invalid"
    result = uid2("doctor", env=env | {f"{scope}_ALLOW_HTTP": "1"})

    assert result.output.count("sent unencrypted") == 1
