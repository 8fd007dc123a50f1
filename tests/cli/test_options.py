"""Options in groups are options like any others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import attrs
import pytest
import typer
from typer.testing import CliRunner

from uid2_async.bulk import FileFormatOptions, MapOptions
from uid2_async.cli.app import app as uid2_app
from uid2_async.cli.options import FORMATS, with_shared_options


@attrs.frozen(kw_only=True)
class Drinks:
    """A group."""

    tea: Annotated[int, typer.Option("--tea", help="Cups of tea.")] = 1
    milk: Annotated[bool, typer.Option("--milk")] = False


@with_shared_options()
def order(
    name: Annotated[str, typer.Argument()],
    *,
    drinks: Drinks,
    loud: Annotated[bool, typer.Option("--loud")] = False,
) -> None:
    """Order drinks."""
    typer.echo(f"{name} {drinks} {loud}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Jane"], "Jane Drinks(tea=1, milk=False) False"),
        (
            ["Jane", "--milk", "--loud", "--tea", "3"],
            "Jane Drinks(tea=3, milk=True) True",
        ),
    ],
)
def test_a_group(arguments: list[str], words: str) -> None:
    """Each field is an option with its default, and the command gets the group."""
    app = typer.Typer()
    app.command()(order)

    result = CliRunner().invoke(app, arguments)

    assert (result.exit_code, result.stdout) == (0, f"{words}\n")


def test_help_lists_them() -> None:
    """In the place of the group, and with their words."""
    app = typer.Typer(rich_markup_mode=None)
    app.command()(order)

    text = CliRunner().invoke(app, ["--help"]).stdout

    assert "Cups of tea." in text
    assert text.index("--tea") < text.index("--milk") < text.index("--loud")


def test_a_table() -> None:
    """An option of a table has the type and the default of the field of its class."""
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_shared_options(FileFormatOptions, FORMATS)
    def show(**formats: Any) -> None:
        assert list(formats) == list(FORMATS)
        typer.echo(FileFormatOptions(**formats))

    run = CliRunner().invoke
    given = run(app, ["--delimiter", "\\t", "--sep-line", "--format", "csv"])

    assert run(app, []).stdout == f"{FileFormatOptions()}\n"
    wanted = FileFormatOptions(delimiter="\t", sep_line=True, format="csv")
    assert given.stdout == f"{wanted}\n"
    assert "[default: utf-8]" in run(app, ["--help"]).stdout


def test_no_job_option_is_forgotten() -> None:
    """Each option of a job is an option of uid2 map, or is listed here."""
    command: Any = typer.main.get_command(uid2_app)
    options = {one.name for one in command.get_command(None, "map").params}
    fields = {one.name for one in attrs.fields(MapOptions)}

    # The identifiers have an option for each type; --refresh-from decides about iso.
    assert fields - options == {"dedupe_window", "identifiers", "iso", "type_column"}


def commands(command: Any, name: str = "uid2") -> Iterator[tuple[str, Any]]:
    """Yield a command and all below it, with their names."""
    yield name, command
    for each in getattr(command, "commands", ()):
        yield from commands(command.get_command(None, each), f"{name} {each}")


def example(command: Any, parameter: Any) -> list[str]:
    """Return an argument or option, with a value that it accepts."""
    if parameter.param_type_name == "argument":
        return ["1"]
    if parameter.is_flag:
        return [parameter.opts[0]]
    (text, _) = parameter.get_help_record(typer.Context(command))
    choice = re.search(r"[<\[](\w+)\|", text)
    return [parameter.opts[0], choice[1] if choice else "1"]


def outcome(command: Any, line: list[str]) -> str:
    """Parse a command line, and return the error."""
    try:
        with command.make_context("uid2", line):
            return "accepted"
    except Exception as error:  # noqa: BLE001 - the class of typer is private
        return str(error)


def test_an_option_of_one_value_is_given_once() -> None:
    """In every command; options of several values, and flags, can be repeated."""
    counts = Counter[str]()
    for name, command in commands(typer.main.get_command(uid2_app)):
        options = [
            one
            for one in command.params
            if one.param_type_name == "option" and one.expose_value
        ]
        needed = [example(command, one) for one in command.params if one.required]
        for option in options:
            is_flag = option.is_flag and not option.secondary_opts
            kind = "many" if option.multiple else "flag" if is_flag else "one"
            words = example(command, option)
            line = [word for each in (*needed, words, words) for word in each]
            counts[kind] += 1
            if kind == "one":
                assert "takes one value, but is given" in outcome(command, line), name
            else:
                assert outcome(command, line) == "accepted", name

    assert counts["one"] > 100
    assert min(counts["many"], counts["flag"]) > 5


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["map a b", "--email", "a", "--email", "b"], "Name one column of each type"),
        (["estimate a", "--column", "a", "--column=b"], "Name one column of each type"),
        (["map a b", "--country", "DE", "--country", "AT"], "Give it once."),
        (["hash a", "--column", "a", "--column", "b"], "Give it once."),
    ],
)
def test_a_repeated_option_says_what_to_do(line: list[str], hint: str) -> None:
    """Several columns are named by type, and nothing else is given twice."""
    name, *options = line
    result = CliRunner().invoke(uid2_app, [*name.split(), *options])

    assert result.exit_code == 2
    assert f"'{options[0]}'" in result.stderr
    assert hint in result.stderr
