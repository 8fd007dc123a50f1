"""The help fits a terminal, and has every option in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

from uid2_async.cli.app import app
from uid2_async.cli.options import PANELS

Uid2 = Callable[..., Any]


def test_no_description_is_cut(uid2: Uid2, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns each command is described in a whole sentence."""
    monkeypatch.setenv("COLUMNS", "80")
    commands = uid2("--help").stdout.partition("Commands:")[2].splitlines()

    assert len(commands) > 14
    assert not [line for line in commands if line.endswith("...")]


def test_the_list_says_what_the_commands_say(uid2: Uid2) -> None:
    """The list of commands loads none of them, and has the first sentence of each."""
    listed = uid2("--help").stdout.partition("Commands:")[2]
    root: Any = get_command(app)

    for name in root.commands:
        command = root.get_command(None, name)
        assert f"  {name} " in listed
        assert f" {command.get_short_help_str(80)}\n" in listed


def test_map_has_panels(uid2: Uid2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each panel of map has an example of one line, and no option is in two or none."""
    monkeypatch.setenv("COLUMNS", "80")
    text = uid2("map", "--help").stdout
    root: Any = get_command(app)
    options = [one for one in root.get_command(None, "map").params if one.opts]
    names = [one.name for one in options if one.param_type_name == "option"]
    listed = re.findall(r"^  (?:-q, )?(--[a-z-]+)", text, re.MULTILINE)

    for title, example in PANELS.items():
        assert f"\n{title}:\n  Example: {example}\n  -" in text
    assert len(listed) == len(set(listed)) == len(names) + 1
    assert text.endswith("Other options:\n  --help  Show this message and exit.\n")


@pytest.mark.parametrize("command", ["map", "estimate", "refresh", "optout-status"])
def test_the_arguments_come_first(uid2: Uid2, command: str) -> None:
    """Panels never swallow the arguments, nor repeat them."""
    text = uid2(command, "--help").stdout

    assert len(re.findall(r"^  (?:IN|STATE) ", text, re.MULTILINE)) == 1
    assert text.index("\nArguments:\n") < text.index("\nOutput: files and messages:\n")
