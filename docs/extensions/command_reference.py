"""Directives about ``uid2``: every command from its own help, and the exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from uid2_async.cli.app import app
from uid2_async.cli.exit_codes import ExitCode

_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>#|~$])")


class CommandReference(SphinxDirective):
    """Writes a section for each command: usage, what it does, arguments, options."""

    def run(self) -> list[nodes.Node]:
        """Make the sections out of Markdown."""
        root = get_command(app)
        text = "\n".join(_describe(root, typer.Context(root, info_name="uid2")))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ExitCodes(SphinxDirective):
    """Writes the table of exit codes."""

    def run(self) -> list[nodes.Node]:
        """Make the table out of Markdown."""
        rows = ["| code | meaning | what to do |", "| --- | --- | --- |"]
        rows += [f"| {one.value} | {one.meaning} | {one.action} |" for one in ExitCode]
        return self.parse_text_to_nodes("\n".join(rows))


def _describe(command: Any, context: Any) -> Iterator[str]:
    """Describe a command, and those below it."""
    path = context.command_path
    yield f"{'#' * max(2, len(path.split()))} {path}\n"
    yield f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    yield from (_paragraph(one) for one in (command.help or "").split("\n\n"))
    arguments, options = [], []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            is_option = parameter.param_type_name == "option"
            (options if is_option else arguments).append(record)
    for name, text in arguments:
        yield f"- `{name}`: {_paragraph(text)}"
    yield f":::{{program}} {path}\n:::\n"
    for name, text in options:
        yield f":::{{option}} {name}\n{_paragraph(text)}:::\n"
    if command.epilog:
        yield _paragraph(command.epilog)
    for name in getattr(command, "commands", ()):
        below = command.get_command(context, name)
        inner = typer.Context(below, info_name=name, parent=context)
        yield from _describe(below, inner)


def _paragraph(text: str) -> str:
    """Write plain text as Markdown."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split())) + "\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command-reference", CommandReference)
    app.add_directive("exit-codes", ExitCodes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
