"""A foreign project in which the plugin is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

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


@pytest.fixture
def count_outcomes(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> Callable[..., tuple[dict[str, Counter[str]], pytest.RunResult]]:
    """Run many modules in one process: loading what they need takes the longest.

    Takes the text of each module by name. Returns the outcomes by module, and the run.
    """

    def count(
        modules: Mapping[str, str], *options: str
    ) -> tuple[dict[str, Counter[str]], pytest.RunResult]:
        for name, text in modules.items():
            pytester.makepyfile(**{f"test_{name}": text})
        found = run("", *options, "--junitxml=report.xml")
        outcomes = {name: Counter[str]() for name in modules}
        report = ET.parse(pytester.path / "report.xml")  # noqa: S314 - pytest wrote it
        for case in report.iter("testcase"):
            name = case.get("classname", "").split(".")[0].removeprefix("test_")
            outcome = next((one.tag for one in case if one.tag in _FAILED), "passed")
            outcomes[name][outcome] += 1
        return outcomes, found

    return count


_FAILED = {"error", "failure", "skipped"}
