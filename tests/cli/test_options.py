"""Options in groups are options like any others."""

from __future__ import annotations

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
