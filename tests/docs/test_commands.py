"""What the pages show of the command line exists, and runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from typer.main import get_command
from typer.testing import CliRunner, Result

import pages
from inventory import read_inventory
from uid2_async.cli.app import app
from uid2_async.models import Email
from uid2_async.protocol.normalize import identity_hash

# It does not end; or holds a placeholder.
NOT_RUN = ("uid2 sandbox", "uid2 inspect VALUE")
# The input of the pages.
PEOPLE_FILES = ("people.parquet", "part-0.parquet", "due.parquet")


def lines_of(page: Path) -> list[str]:
    """List the lines of a page's shell blocks that call ``uid2``, or make a file."""
    found = [*pages.blocks(page, "sh"), *pages.blocks(page, "console")]
    lines = "".join(block.code for block in found).splitlines()
    commands = (one.removeprefix("$ ").partition("  #")[0].rstrip() for one in lines)
    return [one for one in commands if one.startswith(("printf ", "uid2 "))]


def parts_of(line: str) -> tuple[str, str, int]:
    """Tell what a line prints first, the command, and what it may end with."""
    rest, _, handler = line.partition(" || ")
    code = max(re.findall(r"-eq ([0-9]+)", handler), default="0")
    if rest.startswith("printf "):
        first, _, command = rest.partition(" | ")
        return first, command, 0
    return "", rest, int(code or 0)


def spans_of(page: Path, start: str) -> list[str]:
    """List what stands between backticks in a page and begins with *start*."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"`({start}[^`\n]*)`", text)


def command_of(words: list[str]) -> Any:
    """Find the command that *words* name."""
    command: Any = get_command(app)
    for word in words[1:]:
        if word.startswith("-") or not hasattr(command, "commands"):
            break
        command = command.get_command(None, word)
        assert command is not None, word
    return command


def options_of(command: Any) -> set[str]:
    """List the options of a command, and ``--help``."""
    options = [one for one in command.params if one.param_type_name == "option"]
    return {"--help"}.union(*(one.opts for one in options))


PATHS = [str(page.relative_to(pages.ROOT)) for page in (pages.README, *pages.SITE)]


@pytest.mark.parametrize("path", PATHS)
def test_what_is_named_exists(path: str) -> None:
    """Commands and options in shell blocks and between backticks."""
    page = pages.ROOT / path
    spans = [one for one in spans_of(page, "uid2 ") if "/" not in one.split()[1]]
    for line in [*lines_of(page), *spans]:
        words = shlex.split(parts_of(line)[1]) or ["uid2"]
        named = {word.split("=")[0] for word in words if re.match(r"-[-a-z]", word)}
        assert named <= options_of(command_of(words)), line


Shell = Callable[[str], Result]


@pytest.fixture
def shell(
    tmp_path: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Run a line where the files are that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(line: str) -> Result:
        first, command, code = parts_of(line)
        printed = subprocess.check_output(first, shell=True)  # noqa: S602 - our own page
        words = shlex.split(command)[1:] or ["--version"]
        options = {"input": printed, "env": environment, "prog_name": "uid2"}
        done = runner.invoke(app, words, **options)
        if "Pass --force" in done.output:
            # What a line before has written is in the way; pages do not repeat it.
            done = runner.invoke(app, [*words, "--force"], **options)
        if done.exit_code == code:
            done.exit_code = 0
        return done

    hashes = [identity_hash(Email(f"{one}@example.com")) for one in "ab"]
    people = {
        "customer": ["1", "2"],
        "email": ["a@example.com", "b@example.com"],
        "email_hash": hashes,
        "EMAIL_HASH": hashes,
        "mail": ["a@example.com", ""],
        "tel": ["+4930123456", "+12345678901"],
    }
    rows = [people, *zip(*people.values(), strict=True)]
    text = "".join(f"{','.join(row)}\n" for row in rows)
    Path("people.csv").write_text(text, encoding="utf-8")
    for name in PEOPLE_FILES:
        parquet.write_table(pa.table(people), name)
    for line in (
        "uid2 map people.csv audience.csv --column email --type email",
        "uid2 map people.csv all.csv --email mail --phone tel --state people.db",
        "uid2 encrypt audience.csv for-partner.csv",
    ):
        assert run(line).exit_code == 0, line
    shared = csv.read_csv("for-partner.csv").select(["UID_TOKEN"])
    csv.write_csv(shared, "for-partner.csv")
    bid = json.loads(run("uid2 token generate a@example.com").stdout)
    bids = pa.table({"UID_TOKEN": [bid["advertising_token"]]})
    parquet.write_table(bids, "bids.parquet")
    return run


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in PATHS
        if lines_of(pages.ROOT / path) and pages.ROOT / path != pages.STORES
    ],
)
def test_the_shell_blocks_run(path: str, shell: Shell) -> None:
    """Line by line, in the order of the page, against the embedded operator."""
    for line in lines_of(pages.ROOT / path):
        if not line.startswith(NOT_RUN):
            done = shell(line)
            assert done.exit_code == 0, f"{line}\n{done.output}"


def test_every_command_is_in_the_reference(site: Path) -> None:
    """By its options: each is an entry that other pages can link to."""
    entries = read_inventory(site / "objects.inv", "std:cmdoption")

    def check(command: Any, path: str) -> None:
        for option in options_of(command):
            assert f"{path}.{option}" in entries
        for name in getattr(command, "commands", ()):
            check(command.get_command(None, name), f"{path}-{name}")

    check(get_command(app), "uid2")
