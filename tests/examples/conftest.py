"""The example site, against an operator in a thread."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uid2_async.operator import LocalOperator

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def operator() -> Iterator[LocalOperator]:
    """Run an operator beside the test client, which has a loop of its own."""
    with LocalOperator.in_thread() as running:
        yield running


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
