"""The messages of the library, its commands and its checks, read from the source.

A message is a sentence in a string: it has several words, begins with a capital letter
or a placeholder, and ends with a full stop. Docstrings and help texts are left out, and
so are the messages with which the embedded operator imitates a real one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE: Final = Path(__file__).parents[2] / "uid2_async"
# Their texts are those of a real operator, or part of the console's page.
IMITATIONS: Final = ("operator/",)
# Help texts, which are in the reference of the command line.
_HELP: Final = {"help", "epilog", "short_help", "rich_help_panel", "metavar", "doc"}
_HELPERS: Final = {"Option", "Argument", "Typer", "command", "_note"}
_SENTENCE: Final = re.compile(
    r"(?!SELECT |UPDATE |INSERT |DELETE )[A-Z0-9{\"'-].*\s.*\S.*[.!?]", re.DOTALL
)
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|~$])")


_Entry = tuple[int, str, tuple[str, ...]]


class Message(NamedTuple):
    """A text that a user may read.

    Attributes:
        module: The file, relative to the package.
        line: Where it is in the file.
        call: The function or class that it is an argument of; empty if there is none.
        texts: The message and, if both are arguments of one call, its hint.
    """

    module: str
    line: int
    call: str
    texts: tuple[str, ...]


def collect(package: Path = PACKAGE) -> list[Message]:
    """Return all messages, in the order of files and lines."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).as_posix()
        if not module.startswith(IMITATIONS):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            entries = sorted(set(_walk(tree)), key=lambda entry: entry[0])
            found += [Message(module, *entry) for entry in entries]
    return found


def _walk(node: ast.AST) -> Iterator[_Entry]:
    """Yield the line, call and texts of each message below *node*."""
    if isinstance(node, ast.Call):
        yield from _walk_call(node)
        return
    text = _text(node)
    if text is not None:
        if _SENTENCE.fullmatch(text):
            yield node.lineno, "", (text,)  # type: ignore[attr-defined] # an expression has it
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and _text(child.value) is not None):
            yield from _walk(child)


def _walk_call(call: ast.Call) -> Iterator[_Entry]:
    """Yield the sentences among the arguments as one message, and those below them."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name in _HELPERS:
        return
    values = [*call.args, *(one.value for one in call.keywords if one.arg not in _HELP)]
    texts = [text for one in values if (text := _text(one)) is not None]
    sentences = tuple(text for text in texts if _SENTENCE.fullmatch(text))
    if sentences:
        hints = [one.value for one in call.keywords if one.arg == "hint"]
        # A hint may be a command line, which is not a sentence.
        commands = [text for one in hints if (text := _text(one)) is not None]
        sentences += tuple(one for one in commands if one not in sentences)
        # Whatever it is, and wherever the message is, it replaces that of the class.
        yield call.lineno, "" if hints else name, sentences
    yield from _walk(call.func)
    for one in values:
        if _text(one) is None:
            yield from _walk(one)


def _text(node: ast.AST) -> str | None:
    """Return a string with its placeholders as ``{name}``; None if it is not one."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"{{{_name(one.value)}}}"
            if isinstance(one, ast.FormattedValue)
            else str(_text(one))
            for one in node.values
        )
    return None


def _name(node: ast.AST) -> str:
    """Return a short name of what a placeholder stands for."""
    if isinstance(node, ast.Call):
        node = node.args[0] if node.args else node.func
    if isinstance(node, ast.Attribute):
        return "type" if node.attr == "__name__" else node.attr
    return node.id if isinstance(node, ast.Name) else "…"


def default_hints() -> dict[str, str]:
    """Return the hint that each class of errors has unless it is given another."""
    source = (PACKAGE / "errors.py").read_text(encoding="utf-8")
    hints: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            base = next((one.id for one in node.bases if isinstance(one, ast.Name)), "")
            own = [_own_hint(line) for line in node.body]
            hints[node.name] = next(filter(None, own), hints.get(base, ""))
    return hints


def _own_hint(line: ast.stmt) -> str | None:
    """Return the text that a line of a class assigns to ``default_hint``."""
    if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
        target = line.targets[0] if isinstance(line, ast.Assign) else line.target
        if ast.unparse(target) == "default_hint":
            return _text(line.value)
    return None


class MessageList(SphinxDirective):
    """Writes a list of messages for each part of the package."""

    def run(self) -> list[nodes.Node]:
        """Make the lists out of Markdown."""
        lines, hints = [], default_hints()
        found = sorted(collect(), key=lambda one: _part(one.module))
        for part, messages in groupby(found, key=lambda one: _part(one.module)):
            lines.append(f"\n## {part}\n")
            shown = {one.texts: hints.get(one.call, "") for one in messages}
            for texts, default in shown.items():
                hint = " ".join(texts[1:]) or default
                lines.append(f"- **{_escape(texts[0])}** {_escape(hint)}".rstrip())
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _part(module: str) -> str:
    """Name the part of the package that a file belongs to."""
    head, _, rest = module.partition("/")
    return f"uid2_async.{head}" if rest else "uid2_async"


def _escape(text: str) -> str:
    """Write plain text as Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("message-list", MessageList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
