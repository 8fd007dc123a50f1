"""Messages and exit codes of errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from uid2_async import bulk, errors
from uid2_async.cli.app import app
from uid2_async.cli.exit_codes import ExitCode, exit_code_of
from uid2_async.cli.output import Failure, mask


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError(), ExitCode.USAGE),
        (errors.ConfigError(), ExitCode.USAGE),
        (errors.AuthError(), ExitCode.AUTH),
        (errors.RateLimitError(), ExitCode.TRY_LATER),
        (errors.CallTimeoutError(), ExitCode.TRY_LATER),
        (errors.StalledError(), ExitCode.TRY_LATER),
        (errors.ConnectError(), ExitCode.FAILURE),
        (errors.ServerError(), ExitCode.FAILURE),
        (errors.ProtocolError(), ExitCode.FAILURE),
    ],
)
def test_exit_codes(error: errors.UID2Error, code: ExitCode) -> None:
    """The exit code says who must act."""
    assert exit_code_of(error) is code


def test_the_call_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed call is named with all that support needs."""
    error = errors.ServerError("It broke.", hint="Wait.", status=503)
    error.endpoint = "/v3/identity/map"
    error.trace_id = "4711"
    error.attempts = 4

    Failure.of(error).print()

    assert capsys.readouterr().err == (
        "uid2: It broke. [POST /v3/identity/map, HTTP 503, 4 attempts, trace id 4711]\n"
        "Hint: Wait.\n"
    )


def test_a_defect_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that was never raised has no place."""
    Failure.of(ValueError("jane@example.com")).print()

    assert capsys.readouterr().err.startswith("uid2: An unexpected ValueError.\n")


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("jane@example.com", False),
        ("+12025550123", False),
        ("tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ=", False),
        ("secret123", False),
        ("--type=jane@example.com", False),
        ("mpa", True),
        ("--unknown-option", True),
        ("out.csv", True),
    ],
)
def test_mask(argument: str, shown: bool) -> None:
    """Only plain words are repeated in a message."""
    value = argument.removeprefix("--type=")

    assert (value in mask(f"Bad '{value}'.", [argument])) is shown


def test_mask_of_values_within_values() -> None:
    """A longer value is blotted out before a shorter one that it contains."""
    assert mask("got a@b and xa@by", ["a@b", "xa@by"]) == "got *** and ***"


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("Use `delimiter`.", "Use --delimiter."),
        ("Use `strip_header=True`.", "Use --strip-header."),
        ('Use `format="jsonl"`.', "Use --format jsonl."),
        ('Use `comment="#"`.', "Use --comment '#'."),
        ("Use `country_column=NAME`.", "Use --country-column NAME."),
        (r'Use `escape="\\"`.', r"Use --escape '\'."),
        (r'Use `delimiter="\t"`.', r"Use --delimiter '\t'."),
        ("Name it with `sql=QUERY`.", "Name it with --query QUERY."),
        ('Use `identifiers={"email_hash": COL}`.', "Use --email-hash COL."),
        ("Run 'uid2 map' again.", "Run 'uid2 map' again."),
    ],
)
def test_a_hint_names_options(hint: str, shown: str) -> None:
    """An argument that a hint of the library names is an option of the command."""
    assert Failure.of(errors.ConfigError("It broke.", hint=hint)).hint == shown


def test_every_hint_of_bulk_works_in_code_and_as_a_command() -> None:
    """A library caller is told about arguments, and a command about its options."""
    trees = [
        ast.parse(one.read_text()) for one in Path(bulk.__file__).parent.glob("*.py")
    ]
    texts = {
        one.value
        for tree in trees
        for one in ast.walk(tree)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }
    hints = {one for one in texts if re.search(r"(?<![`:])`\w+(=[^`]+)?`(?!`)", one)}
    root: Any = get_command(app)
    commands = [root, *(root.get_command(None, one) for one in root.commands)]
    commands += [
        two for one in commands for two in getattr(one, "commands", {}).values()
    ]
    options = {name for one in commands for param in one.params for name in param.opts}

    assert not [one for one in texts if re.search(r"(?<!\w)--[a-z]", one)]
    assert len(hints) > 20
    for hint in hints:
        shown = Failure.of(errors.InputError("It broke.", hint=hint)).hint
        assert set(re.findall(r"--[a-z-]+", shown)) <= options, hint


def test_a_hint_names_only_options_of_the_command() -> None:
    """A sentence about an option that the command lacks is left out."""
    error = errors.InputError(
        "It broke.", hint="Wait. Then run it again (`restart=True`)."
    )

    assert (
        Failure.of(error, {"--restart"}).hint == "Wait. Then run it again (--restart)."
    )
    assert Failure.of(error, {"--force"}).hint == "Wait."
