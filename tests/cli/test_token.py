"""``uid2 token``: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consent import NO_CONSENT
from uid2_async import IdentityScope
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.operator import LocalOperator

Uid2 = Callable[..., Any]

OPT_OUT = '{"status":"optout"}\n'
# Of emails and phones (docs/protocol.md 6.3).
FIRST_LETTERS = {IdentityScope.UID2: "AB", IdentityScope.EUID: "EF"}


@pytest.fixture
def tokens(generate: Uid2, tmp_path: Path) -> Path:
    """Generate tokens for jane@example.com into a file."""
    path = tmp_path / "tokens.json"
    path.write_text(generate("jane@example.com").stdout)
    return path


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["jane@example.com"], None),
        (["+12025550123"], None),
        (["-"], "jane@example.com\n"),
        (["--file", "-"], "jane@example.com\n"),
        (
            [
                "jIe0ic41zy4vOfgOKCyy6ASTKlaiE5g+7rQoQH1DtS0=",
                "--type",
                "email_hash",
            ],
            None,
        ),
    ],
)
def test_generate(
    generate: Uid2, scope: IdentityScope, arguments: list[str], stdin: str | None
) -> None:
    """The tokens are printed as every UID2 SDK stores them, and nothing else is."""
    result = generate(*arguments, stdin=stdin)

    assert result.exit_code == 0
    token = IdentityTokens.from_json(result.stdout).advertising_token
    assert token[0] in FIRST_LETTERS[scope]
    assert result.stderr == ""


def test_generate_for_somebody_who_opted_out(generate: Uid2) -> None:
    """An opt-out is an answer, not a failure."""
    result = generate("optout@example.com")

    assert (result.exit_code, result.stdout) == (0, OPT_OUT)


def test_generate_without_consent(uid2: Uid2) -> None:
    """EUID operators judge the consent string; the refusal is an answer, too."""
    result = uid2(
        "token",
        "generate",
        "jane@example.com",
        "--tcf-consent",
        NO_CONSENT,
        "--scope",
        "euid",
        "--sandbox",
    )

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"status": "insufficient_user_consent"}


def test_generate_for_an_invalid_value(generate: Uid2) -> None:
    """An invalid identity is refused before anything is sent, and not repeated."""
    result = generate("nobody")

    assert result.exit_code == 2
    assert result.stderr.startswith("uid2: The email is not valid.\n")
    assert "nobody" not in result.output


def test_refresh(uid2: Uid2, env: dict[str, str], tokens: Path) -> None:
    """New tokens come for the old ones."""
    result = uid2("token", "refresh", str(tokens), env=env)
    new = IdentityTokens.from_json(result.stdout)
    old = IdentityTokens.from_json(tokens.read_text())

    assert result.exit_code == 0
    assert new.refresh_token != old.refresh_token


def test_refresh_from_stdin(uid2: Uid2, env: dict[str, str], tokens: Path) -> None:
    """The commands can be piped into each other."""
    result = uid2("token", "refresh", "-", stdin=tokens.read_text(), env=env)

    assert IdentityTokens.from_json(result.stdout).refresh_token


def test_refresh_after_opt_out(
    uid2: Uid2, env: dict[str, str], tokens: Path, local_operator: LocalOperator
) -> None:
    """A person who opted out gets no new tokens."""
    local_operator.opt_out("jane@example.com")
    result = uid2("token", "refresh", str(tokens), env=env)

    assert (result.exit_code, result.stdout) == (0, OPT_OUT)


def test_refresh_of_something_else(
    uid2: Uid2, env: dict[str, str], tmp_path: Path
) -> None:
    """What is no identity tokens is refused."""
    path = tmp_path / "tokens.json"
    path.write_text(OPT_OUT)
    result = uid2("token", "refresh", str(path), env=env)

    assert result.exit_code == 2
    assert "advertising_token is missing" in result.stderr


def test_validate(uid2: Uid2, env: dict[str, str], tokens: Path) -> None:
    """The token may be an argument, the tokens' JSON, or a file with only the token."""
    token = IdentityTokens.from_json(tokens.read_text()).advertising_token
    bare = tokens.with_name("token")
    bare.write_text(f"{token}\n")
    results = [
        uid2("token", "validate", "jane@example.com", *more, stdin=stdin, env=env)
        for more, stdin in [
            ([token], None),
            (["--token-file", str(tokens)], None),
            (["--token-file", str(bare)], None),
            (["--token-file", "-"], token),
        ]
    ]

    assert {one.stdout for one in results} == {'{"valid":true}\n'}


def test_validate_somebody_else(uid2: Uid2, env: dict[str, str], tokens: Path) -> None:
    """Another person's token is not valid, which is an answer."""
    result = uid2(
        "token",
        "validate",
        "-",
        "--token-file",
        str(tokens),
        stdin="joe@example.com",
        env=env,
    )

    assert (result.exit_code, result.stdout) == (0, '{"valid":false}\n')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jane@example.com"], "either TOKEN or --token-file"),
        (["jane@example.com", "t", "--token-file", "f"], "either TOKEN or"),
        (["-", "--token-file", "-"], "cannot both be stdin"),
    ],
)
def test_validate_what(
    uid2: Uid2, env: dict[str, str], arguments: list[str], words: str
) -> None:
    """There must be exactly one token, and one value from stdin."""
    result = uid2("token", "validate", *arguments, env=env)

    assert result.exit_code == 2
    assert words in result.stderr


def test_sandboxes_know_each_other(uid2: Uid2, tmp_path: Path) -> None:
    """Tokens of one sandbox are good in the next: they share a world."""
    path = tmp_path / "tokens.json"
    made = uid2("token", "generate", "jane@example.com", "--sandbox")
    path.write_text(made.stdout)
    result = uid2("token", "refresh", str(path), "--sandbox")

    assert result.exit_code == 0
    assert IdentityTokens.from_json(result.stdout).refresh_token


def test_no_environment(uid2: Uid2) -> None:
    """Without settings, the message names the variables."""
    result = uid2("token", "generate", "jane@example.com")

    assert result.exit_code == 2
    assert "UID2_BASE_URL" in result.stderr
