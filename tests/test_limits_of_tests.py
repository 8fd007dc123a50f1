"""What every test has: a time limit, and the signals of a program in front."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("kind", ["sync", "async", "fixture"])
def test_a_test_that_waits_forever_fails(tmp_path: Path, kind: str) -> None:
    """The limit ends blocking code, coroutines and fixtures; the run continues."""
    endless = {
        "sync": "def test_it():\n    threading.Event().wait()\n",
        "async": "async def test_it():\n    await asyncio.Event().wait()\n",
        "fixture": (
            "@pytest.fixture\ndef endless():\n    threading.Event().wait()\n\n"
            "def test_it(endless): ...\n"
        ),
    }
    path = tmp_path / "test_endless.py"
    imports = "import asyncio, threading\nimport pytest\n\n"
    path.write_text(imports + endless[kind] + "\ndef test_next(): ...\n", "utf-8")
    done = run_pytest("-c", ROOT / "pyproject.toml", path, "-o", "timeout=1")

    assert "Timeout (>1.0s)" in done.stdout
    assert "1 passed" in done.stdout
    assert done.returncode == 1


def test_no_test_is_without_a_limit(request: pytest.FixtureRequest) -> None:
    """The settings have a default limit, and a harder one after it."""
    config = request.config

    assert 0 < float(config.getini("timeout")) <= 120
    assert config.getini("faulthandler_exit_on_timeout")
    assert 120 < float(config.getini("faulthandler_timeout")) <= 900
