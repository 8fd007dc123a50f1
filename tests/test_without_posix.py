"""Windows has no fcntl: all works there but jobs on files, which say what they need.

Each test runs in a Python without the modules and names that Windows lacks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What is imported is the same on each Python.
pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
AS_ON_WINDOWS = """
import asyncio, os, signal, subprocess, sys, tempfile

for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # importing it is an ImportError
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork",
             "geteuid", "getuid", "pread", "register_at_fork", "sync"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "setitimer"):
    delattr(signal, name)

def refuse(*arguments):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = refuse
asyncio.SelectorEventLoop.remove_signal_handler = refuse
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run *code* in such a Python."""
    return subprocess.run(  # noqa: S603 - our own code
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            AS_ON_WINDOWS + code,
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


def uid2(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in such a Python."""
    return run("from uid2_async.cli import main\nmain()", *arguments)


def test_every_module_can_be_imported() -> None:
    """Nothing is imported at the top that only POSIX has."""
    code = """
import importlib, pkgutil, uid2_async
for module in pkgutil.walk_packages(uid2_async.__path__, "uid2_async."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # Optional libraries may be missing, modules of POSIX may not be needed.
            assert error.name in {"fastapi", "opentelemetry", "pyarrow", "pyspark",
                                  "starlette"}, (module.name, error.name)
"""
    done = run(code)

    assert done.returncode == 0, done.stderr


def test_calls_tokens_and_keys_work(tmp_path: Path) -> None:
    """A client calls, a mapper maps, tokens are opened, keys are saved and loaded."""
    code = """
from pathlib import Path
from uid2_async import BidstreamClient, BulkMapper, KeyStore, UID2Client
from uid2_async.operator import LocalOperator

async def main(path):
    async with LocalOperator() as op, UID2Client(
        op.url, api_key=op.api_key, client_secret=op.client_secret
    ) as client, KeyStore(client.fetch_bidstream_keys) as keys:
        tokens = await client.generate_token("user@example.com")
        keys.save(path)
        keys.load(path)
        assert BidstreamClient(keys).decrypt(tokens.advertising_token).raw_uid
        async with BulkMapper(client).map(["a@example.com"]) as records:
            assert [record.result.raw_uid async for record in records]

asyncio.run(main(Path(sys.argv[1])))
"""
    done = run(code, tmp_path / "keys.json")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["map", "--help"],
        ["hash", "--value", "user@example.com"],
        ["token", "generate", "user@example.com", "--sandbox"],
    ],
    ids=" ".join,
)
def test_commands_without_files_work(arguments: list[str]) -> None:
    """Help is shown, and what reads and writes no file is done."""
    done = uid2(*arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == "" or "--sandbox" in arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["map", "in.csv", "out.csv", "--column", "mail", "--type", "email"],
        ["map", "in.csv", "out.csv", "--email", "mail", "--state", "people.db"],
        ["optout-status", "in.csv", "out.csv", "--column", "mail"],
        ["encrypt", "in.csv", "out.csv", "--column", "mail"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_jobs_on_files_say_what_they_need(tmp_path: Path, arguments: list[str]) -> None:
    """They end at once with one line that names the systems, and leave nothing."""
    (tmp_path / "in.csv").write_text("mail\nuser@example.com\n", encoding="utf-8")
    code = "os.chdir(sys.argv.pop(1))\nfrom uid2_async.cli import main\nmain()"
    done = run(code, tmp_path, *arguments, "--sandbox")

    assert done.returncode == 1, done.stderr
    assert "need a POSIX system" in done.stderr
    assert "Linux" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*out*"))
