"""A foreign project in which the plugin is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import uid2_async

INI = """
[pytest]
filterwarnings = error
"""


@pytest.fixture
def run(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    plugin_options: tuple[str, ...],
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
        # pytest-asyncio warns where it is not set; without it, nobody knows it.
        scope = ("-o", "asyncio_default_fixture_loop_scope=function")
        return pytester.runpytest_subprocess(
            *("--strict-markers", "-p", "no:cacheprovider"),
            *plugin_options,
            *(() if "no:asyncio" in options else scope),
            *options,
        )

    return run
