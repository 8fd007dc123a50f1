"""The command line as tests call it, and an operator that it can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from typer.testing import CliRunner

from uid2_async.cli.app import app
from uid2_async.operator import LocalOperator

NAMES = (
    "BASE_URL",
    "ENV",
    "API_KEY",
    "SECRET_KEY",
    "CLIENT_SECRET",
    "ALLOW_HTTP",
)


@pytest.fixture
def uid2(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run ``uid2`` in this process, with none of the settings of this machine."""
    for scope in ("UID2", "EUID"):
        for name in NAMES:
            monkeypatch.delenv(f"{scope}_{name}", raising=False)
            monkeypatch.delenv(f"{scope}_{name}_FILE", raising=False)
    runner = CliRunner()

    def run(
        *arguments: str,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> object:
        return runner.invoke(
            app, list(arguments), input=stdin, env=env, prog_name="uid2"
        )

    return run


@pytest.fixture(scope="session")
def shared_operator() -> Iterator[LocalOperator]:
    """Run one operator for all tests of the command line, in a thread."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture
def local_operator(shared_operator: LocalOperator) -> LocalOperator:
    """Give an operator in a thread that remembers nothing of other tests."""
    shared_operator.reset()
    return shared_operator


@pytest.fixture
def env(local_operator: LocalOperator) -> dict[str, str]:
    """Name the operator as a user's environment does."""
    return {
        "UID2_BASE_URL": local_operator.url,
        "UID2_API_KEY": local_operator.api_key,
        "UID2_SECRET_KEY": local_operator.client_secret,
    }
