"""No command lets a person's data out, nor lets a text from outside steer a terminal.

Every command of the tree is run with canaries in its files, in stdin and in each of its
options, and with control characters in the names of files and columns. A command or an
option that is added is walked without being listed here.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from canaries import ADVERTISING_TOKEN, EMAIL, PHONE, UID, find_canaries
from uid2_async import IdentityScope, errors
from uid2_async._private import http_logger, logger
from uid2_async.cli.app import app
from uid2_async.cli.output import Failure, dump_json, print_error, print_lines
from uid2_async.cli.state import render, write_section
from uid2_async.testing import OperatorThread

STEERING = "a\x1b[2J\x9b\x7f\nforged\u2028\u202e\udce9b"
"""What clears a screen, forges a line, reorders text and is not UTF-8."""
SHOWN = r"a\x1b[2J\x9b\x7f\nforged\u2028\u202e\udce9b"

RESULTS = {"encrypt", "decrypt", "hash", "inspect", "token generate", "token refresh"}
"""Commands whose result on stdout is what a person's data was turned into."""

FILES = {"source", "file", "keys_file", "token_file", "data"}
NEW_FILES = {"target", "delta", "save", "html", "job_dir"}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Go through the tree of commands, to its leaves."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
        return
    for name in below:
        yield from commands(command.get_command(None, name), (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def option_of(parameter: Any) -> str:
    """Give the longest name of an option."""
    return max(parameter.opts, key=len)


class Walk:
    """Command lines for one command.

    Attributes:
        name: The command.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Write files with canaries into *folder*."""
        self.name = name
        self._folder = folder
        self._count = 0
        self._parameters = [one for one in COMMANDS[name].params if one.name != "help"]
        self._inputs = [folder / "in.csv", folder / "broken.csv", folder / "in.json"]
        rows = f"email,phone\n{EMAIL},{PHONE}\n{UID},{ADVERTISING_TOKEN}\n"
        self._inputs[0].write_text(rows, encoding="utf-8")
        self._inputs[1].write_bytes(b'\xff"' + rows.encode())
        forged = {"advertising_token": f"\ud800{EMAIL}", "refresh_token": EMAIL}
        self._inputs[2].write_text(json.dumps(forged), encoding="ascii")

    def lines(self) -> Iterator[list[str]]:
        """Give command lines: every option and flag once, on every input."""
        for given in self._inputs:
            yield self._line(given)
        for one in self._parameters:
            if one.param_type_name == "argument":
                values = [[EMAIL], [UID], [ADVERTISING_TOKEN]]
                if one.name not in FILES | NEW_FILES | {"state"}:
                    yield from (self._line(self._inputs[0], one, v) for v in values)
            elif getattr(one, "is_flag", False):
                yield [*self._line(self._inputs[0]), option_of(one)]
            else:
                value = self._file_for(one, self._inputs[0]) or f"x {EMAIL}"
                # An error names the column that is missing.
                value = "nowhere" if one.name.endswith(("column", "keys")) else value
                yield [*self._line(self._inputs[0]), option_of(one), value]

    def _line(
        self, given: Path, other: Any = None, values: list[str] | None = None
    ) -> list[str]:
        """Give the arguments and the options that the command needs."""
        line = self.name.split()
        for one in self._parameters:
            if one is other:
                line += values or []
            elif one.required:
                value = self._file_for(one, given) or EMAIL
                named = one.param_type_name == "option"
                line += [option_of(one), value] if named else [value]
        if self.name == "sandbox":
            # One that could start would not end.
            line += ["--data", str(given)]
        return line

    def _file_for(self, parameter: Any, given: Path) -> str | None:
        """Name a file for a parameter that takes one."""
        self._count += 1
        if parameter.name in FILES:
            return str(given)
        if parameter.name in NEW_FILES:
            return str(self._folder / f"new{self._count}.csv")
        return str(given) if parameter.name == "state" else None


@pytest.fixture
def operator_env(operators: OperatorThread) -> dict[str, str]:
    """Name an operator whose key can do everything."""
    operator = operators.operator(IdentityScope.UID2)
    return {
        "UID2_BASE_URL": operator.url,
        "UID2_API_KEY": operator.api_key,
        "UID2_SECRET_KEY": operator.client_secret,
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_leaks(
    name: str,
    uid2: Callable[..., Any],
    operator_env: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is passed: stderr and the log show no canary and no secret."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    secrets = [operator_env["UID2_API_KEY"], operator_env["UID2_SECRET_KEY"]]
    for line in Walk(name, tmp_path).lines():
        stdin = f"{EMAIL}\n{ADVERTISING_TOKEN}\n"
        result = uid2(*line, stdin=stdin, env=operator_env)
        assert isinstance(result.exception, SystemExit | None), line
        shown = f"{result.stderr}{caplog.text}"
        if name not in RESULTS:
            shown += result.stdout
        assert find_canaries(shown) == [], line
        assert not [one for one in secrets if one in shown], line
        assert "unexpected" not in result.stderr, line


@pytest.mark.parametrize("color", ["", "1"])
def test_people_are_shown_on_a_terminal_alone(
    uid2: Callable[..., Any], operator_env: dict[str, str], tmp_path: Path, color: str
) -> None:
    """The first rows stay out of a file that stderr goes to, colors forced or not."""
    source = tmp_path / "in.csv"
    source.write_text(f"mail\n{EMAIL}\n", encoding="utf-8")
    env = {**operator_env, "FORCE_COLOR": color, "TTY_INTERACTIVE": color}

    files = [str(source), str(tmp_path / "out.csv")]
    result = uid2("map", *files, "--column", "mail", "--type", "email", env=env)

    assert result.exit_code == 0
    assert "Summary" in result.stderr
    assert "First rows" not in result.stderr
    assert find_canaries(result.stderr) == []


def steers(text: str) -> list[str]:
    """List what could steer a terminal; lines end, and rich may color."""
    return [char for char in text if not (char.isprintable() or char in "\n\xa0")]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_name_of_a_file_steers_a_terminal(
    name: str, uid2: Callable[..., Any], operator_env: dict[str, str], tmp_path: Path
) -> None:
    """Names of files and columns are escaped in all that a command prints."""
    folder = tmp_path / STEERING
    folder.mkdir()
    walk = Walk(name, folder)
    column = f"{STEERING.encode('utf-8', 'replace').decode()}"
    (folder / "in.csv").write_text(f'"{column}"\n{EMAIL}\n', encoding="utf-8")
    for line in itertools.islice(walk.lines(), 6):
        result = uid2(*line, stdin=f"{EMAIL}\n", env=operator_env)
        assert isinstance(result.exception, SystemExit | None), line
        assert "unexpected" not in result.stderr, line
        assert steers(result.stderr) == [], line
        if name not in RESULTS:
            assert steers(result.stdout) == [], line


def test_one_rule_for_every_way_out(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, stderr, stdout, JSON, the log and the report escape alike."""
    error = errors.BadRequestError(STEERING, hint=STEERING, code=STEERING)
    Failure.of(error).print()
    print_error(STEERING, STEERING)
    print_lines([STEERING])
    for one in (logger, http_logger):
        one.warning("%s", STEERING)
        one.warning(STEERING)
    section = write_section(
        name="x",
        title=STEERING,
        text=STEERING,
        head=[STEERING],
        rows=[[STEERING, STEERING]],
        bars=[1],
        labels=[STEERING],
    )
    page = render({STEERING: f"<b>{STEERING}"}, [section])

    out, err = capsys.readouterr()
    for text in (str(error), error.message, error.hint, error.code, page, out, err):
        assert SHOWN in str(text)
        assert steers(str(text)) == []
    assert [record.getMessage() for record in caplog.records] == [SHOWN] * 4
    assert "&lt;b&gt;" in page
    text = dump_json({"name": STEERING})
    assert text.isascii()
    assert steers(text) == []
    assert json.loads(text) == {"name": STEERING}
