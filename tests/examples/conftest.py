"""The examples, against an operator in a thread."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from commands import Command
from uid2_async.operator import LocalOperator

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTINGS = ("BASE_URL", "ENV", "API_KEY", "SECRET_KEY", "CLIENT_SECRET")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def operator() -> Iterator[LocalOperator]:
    """Run an operator for the test client, which has its own loop."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture
def env(operator: LocalOperator) -> dict[str, str]:
    """Name the operator as a user's environment does."""
    return {
        "UID2_BASE_URL": operator.url,
        "UID2_API_KEY": operator.api_key,
        "UID2_SECRET_KEY": operator.client_secret,
    }


@pytest.fixture
def run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run an example as a user does; nobody's identifier may be printed."""
    for name in SETTINGS:
        monkeypatch.delenv(f"UID2_{name}", raising=False)

    def run(
        name: str, *arguments: object, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        log = tmp_path_factory.mktemp("log") / name
        started = Command(
            [*map(str, arguments)],
            folder=Path.cwd(),
            env=env or {},
            log=log,
            script=EXAMPLES / name,
        )
        with started as example:
            code = example.wait(100)
            done = subprocess.CompletedProcess(
                [name], code, example.stdout, example.stderr
            )
        assert "@" not in done.stdout + done.stderr
        assert "+1" not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def load() -> Callable[[str], ModuleType]:
    """Import an example, which does nothing on import."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # attrs looks annotations up where the module is registered.
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def browser(operator: LocalOperator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a test client of the site."""
    for needed in ("fastapi", "jinja2", "python_multipart"):
        pytest.importorskip(needed)
    testclient = pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    monkeypatch.syspath_prepend(EXAMPLES)
    site = importlib.import_module("publisher_site.app")
    with testclient.TestClient(site.make_app(operator)) as opened:
        yield opened
