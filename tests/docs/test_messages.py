"""The messages that messages.md lists are whole, and name only what users have."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import pages
from uid2_async import errors
from uid2_async.cli.app import app

pytest.importorskip("docutils")
SCRIPT = runpy.run_path(str(pages.ROOT / "docs" / "extensions" / "every_message.py"))
MESSAGES = SCRIPT["collect"]()
TEXTS = [(one, text) for one in MESSAGES for text in one.texts]
PYPROJECT = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
SETTINGS = (pages.ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
LISTED = set(re.findall(r"`\w+`", SETTINGS))
SOURCE = """
def f(path):
    \"\"\"This is a docstring.\"\"\"
    raise JobError(f"{path.name} is not " "a file.", hint="Name a file.")

HINTS = {1: "Ask somebody else.", 2: "word"}
option = Option(help="This is a help text.")
"""


def commands(command: Any, path: str = "uid2") -> Iterator[tuple[str, Any]]:
    """List a command, and those below it."""
    yield path, command
    for name in getattr(command, "commands", ()):
        yield from commands(command.get_command(None, name), f"{path} {name}")


COMMANDS = dict(commands(get_command(app)))
OPTIONS = {"--help"}.union(
    *(one.opts for command in COMMANDS.values() for one in command.params)
)


def test_messages_are_found(tmp_path: Path) -> None:
    """A message with its hint, and one in a table; no docstring, help text or word."""
    (tmp_path / "part.py").write_text(SOURCE, encoding="utf-8")

    found = [one.texts for one in SCRIPT["collect"](tmp_path)]

    assert found == [("{name} is not a file.", "Name a file."), ("Ask somebody else.",)]


def test_a_hint_replaces_that_of_the_class(tmp_path: Path) -> None:
    """Also a command line, and one that is computed, which is not shown."""
    source = (
        'JobError("An extra is missing.", hint="pip install x")\n'
        'JobError("Its hint is computed.", hint=compute())\n'
        'JobError("It has no hint.")\n'
    )
    (tmp_path / "part.py").write_text(source, encoding="utf-8")

    found = [(one.texts, one.call) for one in SCRIPT["collect"](tmp_path)]

    assert found == [
        (("An extra is missing.", "pip install x"), ""),
        (("Its hint is computed.",), ""),
        (("It has no hint.",), "JobError"),
    ]


def test_every_hint_of_an_error_class_is_listed() -> None:
    """The collection reaches the errors, the checks, the jobs and the commands."""
    listed = {text for _, text in TEXTS}
    classes = [getattr(errors, name) for name in errors.__all__]

    assert {
        one.default_hint for one in classes if hasattr(one, "default_hint")
    } <= listed
    assert {"bulk", "cli", "doctor"} <= {one.module.split("/")[0] for one in MESSAGES}


def lacking(text: str) -> Iterator[str]:
    """List what a message names and the reader does not have."""
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        if option not in OPTIONS:
            yield option
    for command in re.findall(r"(?<![\w.])(?<!marker )uid2 [a-z][a-z-]*", text):
        if command not in COMMANDS:
            yield command
    for extra in re.findall(r"uid2-async\[(\w+)\]", text):
        if extra not in EXTRAS:
            yield extra
    for variable in re.findall(r"\bE?UID2?_[A-Z_]+[A-Z]\b", text):
        name = re.sub("^EUID_", "UID2_", variable)
        if not {f"`{name}`", f"`{name.removesuffix('_FILE')}`"} & LISTED:
            yield variable
    yield from re.findall(r"\b(?:docs|tests|examples)/\S*|\S+\.md\b", text)


@pytest.mark.parametrize(
    "text",
    [
        "Pass --forse to replace it.",
        "Run uid2 refresj again.",
        "Install uid2-async[parket].",
        "Set UID2_APIKEY or EUID_KEY.",
        "See docs/protocol.md 3.",
    ],
)
def test_what_the_reader_lacks_is_noticed(text: str) -> None:
    """An option, command, extra or variable that does not exist; a file of ours."""
    assert list(lacking(text))


def test_a_message_names_what_the_reader_has() -> None:
    """Options, commands, extras and variables exist; no file of the repository."""
    found = [
        (one.module, one.line, what) for one, text in TEXTS for what in lacking(text)
    ]

    assert found == []
