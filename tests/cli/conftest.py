"""The command line as tests call it, and an operator that it can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
from typer.testing import CliRunner

from uid2_async import IdentityScope
from uid2_async.cli.app import app
from uid2_async.operator import LocalOperator
from uid2_async.testing import OperatorThread

NAMES = (
    "BASE_URL",
    "ENV",
    "API_KEY",
    "SECRET_KEY",
    "CLIENT_SECRET",
    "ALLOW_HTTP",
    "PROXY",
    "CA",
    "TIMEOUT",
)


@pytest.fixture
def uid2(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run ``uid2`` in this process, with none of the settings of this machine.

    Where the environment names an EUID operator, the command is told the scope.
    """
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
        if env and "EUID_BASE_URL" in env:
            arguments += ("--scope", "euid")
        return runner.invoke(
            app, list(arguments), input=stdin, env=env, prog_name="uid2"
        )

    return run


@pytest.fixture(scope="session")
def operators() -> Iterator[OperatorThread]:
    """Run one operator of each system for all tests of the command line."""
    with OperatorThread() as running:
        yield running


@pytest.fixture
def local_operator(operators: OperatorThread, scope: IdentityScope) -> LocalOperator:
    """Give an operator in a thread that remembers nothing of other tests."""
    operator = operators.operator(scope)
    operator.reset()
    return operator


@pytest.fixture
def env_of(local_operator: LocalOperator) -> Callable[[str], dict[str, str]]:
    """Name the operator, and the key of a role, as a user's environment does."""

    def env_of(role: str) -> dict[str, str]:
        scope, key = local_operator.data.scope, local_operator.credentials[role]
        return {
            f"{scope}_BASE_URL": local_operator.url,
            f"{scope}_API_KEY": key.api_key,
            f"{scope}_SECRET_KEY": key.client_secret,
        }

    return env_of


@pytest.fixture
def env(env_of: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """Name the operator, and the key that can do everything."""
    return env_of("everything")


@pytest.fixture
def generate(
    uid2: Callable[..., object], env: dict[str, str], consent: str | None
) -> Callable[..., object]:
    """Run ``uid2 token generate``, in the EUID scope with consent."""
    said = () if consent is None else ("--tcf-consent", consent)
    return partial(uid2, "token", "generate", *said, env=env)
