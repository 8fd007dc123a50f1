"""Secrets are refused, and every failure is one line and an exit code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from uid2_async import errors
from uid2_async.cli.app import CommandGroup
from uid2_async.operator import LocalOperator
from uid2_async.operator.state import Fault

Uid2 = Callable[..., Any]


@pytest.mark.parametrize(
    "arguments",
    [
        ["hash", "--api-key", "s3cr3t"],
        ["hash", "--api-key=s3cr3t"],
        ["--secret", "s3cr3t", "hash", "x"],
        ["map", "a", "b", "--client-secret", "s3cr3t"],
        ["token", "generate", "--secret-key=s3cr3t", "a@example.com"],
        ["token", "generate", "--key", "s3cr3t"],
        ["token", "generate", "--API_KEY=s3cr3t"],
        ["hash", "UID2-C-I-8-s3cr3t"],
        ["hash", "--", "EUID-C-P-8-s3cr3t"],
        ["map", "UID2_API_KEY=UID2-C-L-8-s3cr3t", "out.csv"],
    ],
)
def test_secrets_are_refused(uid2: Uid2, arguments: list[str]) -> None:
    """A key or secret on the command line is refused, unread, and never repeated."""
    result = uid2(*arguments)

    assert result.exit_code == 2
    assert "not accepted on the command line" in result.stderr
    assert "UID2_API_KEY" in result.stderr
    assert "s3cr3t" not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mpa"], "No such command 'mpa'"),
        (["map"], "Missing argument 'IN'"),
        (["token"], "Missing command"),
        (["hash", "--nope"], "No such option"),
        (["hash", "--type", "jane@example.com", "x"], "'***' is not one of"),
        (["hash", "--type=+12025550123", "x"], "'***' is not one of"),
        (["token", "generate", "a", "jane@example.com"], "extra argument"),
        (["sandbox", "--port", "99999"], "Invalid value for '--port'"),
    ],
)
def test_usage_errors(uid2: Uid2, arguments: list[str], expected: str) -> None:
    """A wrong command line is one line and a hint, and repeats no value."""
    result = uid2(*arguments)

    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("uid2: ")
    assert expected in first
    assert second.startswith("Hint: See 'uid2")
    assert "jane" not in result.output
    assert "555" not in result.output


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault(status=401, body=b'{"status":"unauthorized"}'), 4, "HTTP 401"),
        (Fault(status=429, retry_after=86_400), 5, "HTTP 429"),
        (Fault(status=404), 1, "HTTP 404"),
        (Fault(wrong_nonce=True), 1, "could not be decrypted"),
    ],
)
def test_operator_errors(
    generate: Uid2,
    local_operator: LocalOperator,
    fault: Fault,
    code: int,
    words: str,
) -> None:
    """What the operator refuses becomes one line with the trace id, and a code."""
    local_operator.fail_next(fault, times=5)
    result = generate("jane@example.com")

    assert result.exit_code == code
    first, second = result.stderr.splitlines()
    assert words in first
    assert "trace id" in first
    assert "POST /v2/token/generate" in first
    assert second.startswith("Hint: ")
    assert result.stdout == ""
    assert "jane" not in result.stderr


def run_raising(error: BaseException) -> Any:
    """Run a command that raises *error* under the same root as all commands."""
    app = typer.Typer(cls=CommandGroup)

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(app, ["fail"])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.InputError("No."), 2, "uid2: No.\nHint: "),
        (errors.CallTimeoutError("Late."), 5, "uid2: Late.\nHint: "),
        (KeyboardInterrupt(), 130, "uid2: Interrupted.\n"),
        (OSError(28, "No space left", "out"), 1, "uid2: out: No space left.\n"),
        (OSError("odd"), 1, "uid2: OSError.\n"),
        (BrokenPipeError(), 1, ""),
        (typer.Exit(7), 7, ""),
        (typer.Abort(), 1, ""),
    ],
)
def test_exceptions_become_codes(error: BaseException, code: int, text: str) -> None:
    """Each exception has its line and its code."""
    result = run_raising(error)

    assert result.exit_code == code
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.output


def test_defects_show_their_place_alone() -> None:
    """An unexpected error names type and place, since its text may hold DII."""
    result = run_raising(RuntimeError("jane@example.com"))

    assert result.exit_code == 1
    assert "An unexpected RuntimeError at " in result.stderr
    assert "test_app.py:" in result.stderr
    assert "jane" not in result.output


def test_warnings_are_one_line() -> None:
    """A warning is printed without the source line that it came from."""
    app = typer.Typer(cls=CommandGroup)

    @app.callback(invoke_without_command=True)
    def root() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("Mind the gap.", stacklevel=1)

    result = CliRunner().invoke(app, [])

    assert result.stderr == "uid2: warning: Mind the gap.\n"


def test_the_log_stays_silent(uid2: Uid2) -> None:
    """The library's log lines do not double the messages; a handler may still ask."""
    uid2("--version")

    handlers = logging.getLogger("uid2_async").handlers
    assert any(isinstance(one, logging.NullHandler) for one in handlers)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["map", "", "out.csv"], "IN"),
        (["map", "in.csv", ""], "OUT"),
        (["map", "in.csv", "out.csv", "--state", ""], "--state"),
        (["map", "in.csv", "out.csv", "--key", "a", "--key="], "--key"),
        (["hash", "in.csv", "out.csv", "--column", ""], "--column"),
        (["refresh", ""], "STATE"),
        (["state", "export", "people.db", ""], "OUT"),
        (["token", "refresh", ""], "FILE"),
        (["keys", "--save", ""], "--save"),
        (["sandbox", "--data", ""], "--data"),
        (["sandbox", "--host", ""], "--host"),
    ],
)
def test_no_path_or_name_is_empty(uid2: Uid2, line: list[str], name: str) -> None:
    """A shell makes it of an unset variable, and Python makes this folder of it."""
    result = uid2(*line)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{name}': it is empty." in result.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["refresh", "nowhere.db"], "There is no state nowhere.db."),
        (["refresh", "in.csv"], "in.csv is not a state."),
        (["refresh", "/dev/stdin"], "/dev/stdin is not a state."),
        (["optout-status", "in.csv"], "A file of raw UIDs needs OUT."),
        (["state", "show", "in.csv"], "in.csv is not a state."),
        (["map", "in.csv", "out.csv", "--state", "/"], "/ is not a file."),
        (["map", "in.csv", "out.csv", "--recheck-after", "x"], "--recheck-after is"),
        (["map", "in.csv", "out.csv", "--concurrency", str(10**20)], "--concurrency"),
        (["keys", "--save", "."], ". cannot be written"),
        (["keys", "--save", "nowhere/keys"], "nowhere/keys cannot be written"),
        (["keys", "--keys-file", "."], ". cannot be read: Is a directory."),
        (["estimate", "in.csv", "--column", "mail", "--latency", "inf"], "--latency"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    uid2: Uid2,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: list[str],
    words: str,
) -> None:
    """Wrong usage ends with 2 and a reason, and no file appears."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("mail\njane@example.com\n")
    local = line[0] in ("estimate", "state") or "--keys-file" in line
    result = uid2(*line, *([] if local else ["--sandbox"]))

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]
