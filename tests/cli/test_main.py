"""The entry point: with the extra, without it, and how much it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from uid2_async._version import __version__
from uid2_async.cli import main
from uid2_async.cli.app import app

Uid2 = Callable[..., Any]

WITHOUT = """
import sys
sys.modules[{module!r}] = None
from uid2_async.cli import main
main()
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(  # noqa: S603 - the interpreter that runs this
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_missing_extra(module: str) -> None:
    """Without the extra, one line on stderr says how to install it."""
    done = python("-c", WITHOUT.format(module=module))

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "uid2: The command line is not installed: pip install 'uid2-async[cli]'"
    ]


def test_module_runs() -> None:
    """``python -m uid2_async`` is the command line, and calls itself uid2."""
    done = python("-m", "uid2_async", "--help")

    assert done.returncode == 0
    assert done.stdout.startswith("Usage: uid2 ")
    assert done.stderr == ""


def test_help_imports_no_aiohttp() -> None:
    """Help needs none of what takes long to import."""
    heavy = {"aiohttp", "cryptography", "rich.progress", "tenacity"}
    done = python(
        "-c",
        "import sys, atexit; from uid2_async.cli import main\n"
        f"atexit.register(lambda: print(sorted({heavy} & set(sys.modules))))\n"
        "sys.argv = ['uid2', 'map', '--help']; main()",
    )

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_list_loads_no_command_and_no_command_loads_aiohttp() -> None:
    """What the list of commands and the completion of their names do not need."""
    done = python(
        "-c",
        "import sys, typer; from uid2_async.cli.app import app\n"
        "root = typer.main.get_command(app)\n"
        "print([one for one in sys.modules if one.startswith('uid2_async.bulk')])\n"
        "print(len([root.get_command(None, one) for one in root.commands]) > 14)\n"
        "heavy = {'aiohttp', 'rich.progress', 'tenacity'}\n"
        "print(sorted(heavy & set(sys.modules)))",
    )

    assert done.stdout.splitlines() == ["[]", "True", "[]"], done.stderr


def test_version(uid2: Uid2) -> None:
    """--version prints the version."""
    result = uid2("--version")

    assert (result.exit_code, result.stdout) == (0, f"uid2-async {__version__}\n")


def test_no_command_prints_help(uid2: Uid2) -> None:
    """Without a command, help is printed and the code says that nothing was done."""
    result = uid2()

    assert result.exit_code == 2
    assert "Commands:" in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["map"],
        ["hash"],
        ["buckets"],
        ["doctor"],
        ["sandbox"],
        ["token"],
        ["token", "generate"],
        ["token", "refresh"],
        ["token", "validate"],
    ],
)
def test_every_command_has_help(uid2: Uid2, command: list[str]) -> None:
    """Every command explains itself."""
    result = uid2(*command, "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_tracebacks_with_local_variables_are_off() -> None:
    """Typer must not print local variables, which hold DII and keys."""
    assert app.pretty_exceptions_enable is False


def test_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The entry point runs the command that the process was given."""
    monkeypatch.setattr("sys.argv", ["anything", "hash", "--value", "jane@example.com"])
    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith('{"HASH":')


def test_main_without_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra the entry point ends with 1 before anything is imported."""
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 1
    assert "pip install 'uid2-async[cli]'" in capsys.readouterr().err
