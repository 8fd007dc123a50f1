"""What every test has: a time limit, and the signals of a program in front."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

# Checks how pytest is set up, not the library.
pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
SIGNALS = Path(__file__).with_name("cli") / "test_run_async.py"


def run_pytest(
    *arguments: object, ignoring: Iterable[signal.Signals] = ()
) -> subprocess.CompletedProcess[str]:
    """Run our tests in a process that was started with signals ignored."""
    code = (
        "import os, signal, sys\n"
        "for number in map(int, sys.argv[1].split()):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
    )
    pytest_command = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    ignored = " ".join(str(int(number)) for number in ignoring)
    return subprocess.run(  # noqa: S603 - our own tests
        [sys.executable, "-c", code, ignored, *pytest_command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
    )


def test_ignored_signals_reach_tests() -> None:
    """A run that was started with signals ignored tests them all the same."""
    ignored = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    done = run_pytest(SIGNALS, "-o", "timeout=30", ignoring=ignored)

    assert done.returncode == 0, done.stdout


ENDLESS = """
import asyncio, threading
import pytest

def test_sync():
    threading.Event().wait()

async def test_async():
    await asyncio.Event().wait()

@pytest.fixture
def endless():
    threading.Event().wait()

def test_fixture(endless): ...

def test_next(): ...
"""


def test_a_test_that_waits_forever_fails(tmp_path: Path) -> None:
    """The limit ends blocking code, coroutines and fixtures; the run continues."""
    path = tmp_path / "test_endless.py"
    path.write_text(ENDLESS, "utf-8")
    done = run_pytest("-c", ROOT / "pyproject.toml", path, "-o", "timeout=1", "-rfEp")

    ended = re.findall(r"^(\w+) .*?::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(ended) == [
        ("ERROR", "test_fixture"),
        ("FAILED", "test_async"),
        ("FAILED", "test_sync"),
        ("PASSED", "test_next"),
    ], done.stdout
    assert done.stdout.count("Failed: Timeout (>1.0s)") >= 3
    assert done.returncode == 1


def test_no_test_is_without_a_limit(request: pytest.FixtureRequest) -> None:
    """The settings have a default limit, and a harder one after it."""
    config = request.config

    assert 0 < float(config.getini("timeout")) <= 120
    assert config.getini("faulthandler_exit_on_timeout")
    assert 120 < float(config.getini("faulthandler_timeout")) <= 900
