"""The examples, against an operator in a thread."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import uid2_async
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
def run() -> Run:
    """Run an example as a user does; nobody's identifier may be printed."""

    def run(
        name: str, *arguments: object, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        cleared = {
            name: value
            for name, value in os.environ.items()
            if name not in {f"UID2_{one}" for one in SETTINGS}
        }
        done = subprocess.run(  # noqa: S603 - our own example
            [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={
                **cleared,
                "PYTHONPATH": str(Path(uid2_async.__file__).parents[1]),
                **(env or {}),
            },
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
