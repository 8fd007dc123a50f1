"""A foreign project in which the plugin is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import uid2_async

# Where the package is installed, pytest finds the plugin by itself.
LOADED = any(one.name == "uid2" for one in entry_points(group="pytest11"))
OPTIONS = () if LOADED else ("-p", "uid2_async.pytest_plugin")
INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run a module of tests in a process and a project of its own, all warnings fatal.

    Takes the module's text, further options of pytest, and the text of a conftest.
    """
    package = Path(uid2_async.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(package))
    for name in ("COLUMNS", "PYTEST_ADDOPTS", "UID2_ENV"):
        monkeypatch.delenv(name, raising=False)

    def run(module: str, *options: str, conftest: str = "") -> pytest.RunResult:
        pytester.makepyfile(module)
        pytester.makeini(INI)
        if conftest:
            pytester.makeconftest(conftest)
        return pytester.runpytest_subprocess(
            *("--strict-markers", "-p", "no:cacheprovider"),
            *OPTIONS,
            *options,
        )

    return run
