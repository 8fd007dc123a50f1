"""Shells complete commands and options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

# Shells ask Typer, whose version is the same everywhere.
pytestmark = pytest.mark.once
ME = f"{sys.executable} -m uid2_async"


def run(*command: str, **env: str) -> str:
    """Run *command* with more environment, and give what it prints."""
    done = subprocess.run(  # noqa: S603 - fixed commands
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **env},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@cache
def script_for(shell: str) -> str:
    """Print the script, as users of *shell* get it from --show-completion."""
    switch = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return run(*ME.split(), "--show-completion", shell, **switch)


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        ("uid2 doc", ["doctor"]),
        ("uid2 doctor --js", ["--json"]),
        ("uid2 doctor --need id", ["id_reader"]),
        ("uid2 token re", ["refresh"]),
        ("uid2 hash --cou", ["--country"]),
    ],
)
def test_bash(tmp_path: Path, words: str, candidates: list[str]) -> None:
    """The function that the script defines finds commands, options and choices."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not on PATH")
    uid2 = tmp_path / "uid2"
    uid2.write_text(f'#!{bash}\nexec {ME} "$@"\n')
    uid2.chmod(0o700)
    last = len(words.split()) - 1
    call = (
        f"COMP_WORDS=({words}); COMP_CWORD={last}; _uid2_completion '{uid2}'; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )

    assert run(bash, "-c", f"{script_for('bash')}\n{call}").split() == candidates


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str) -> None:
    """Zsh and fish ask in their own ways, and get the same answers."""
    assert "_UID2_COMPLETE" in script_for(shell)
    answer = run(
        *ME.split(),
        _UID2_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="uid2 doc",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )

    assert "doctor" in answer
    assert "hash" not in answer


def test_installation(tmp_path: Path) -> None:
    """--install-completion writes into the files of the user's shell."""
    switch = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run(*ME.split(), "--install-completion", "bash", HOME=str(tmp_path), **switch)

    assert ".bash_completions/uid2.sh" in (tmp_path / ".bashrc").read_text()
    assert "_uid2_completion" in (tmp_path / ".bash_completions/uid2.sh").read_text()
