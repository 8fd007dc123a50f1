"""How Sphinx makes the documentation; ``nox -s docs`` builds it and runs its code."""

from __future__ import annotations

import re
import sys
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

from uid2_async import __version__  # noqa: E402 - from this checkout

project = "uid2_async"
author = "the authors of uid2_async"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "command_reference",
    "every_message",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Options such as --state must not become dashes.
smartquotes = False
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"uid2_async {version}"
html_static_path = ["static"]
html_css_files = ["pictures.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_inherit_docstrings = False
# As it stands in the source: a function has no other text that means something.
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True

# Every name must be found, but for those of others, type variables and private ones.
_FOREIGN = (
    "aiohttp|asyncio|collections|concurrent|contextlib|cryptography|datetime|django|"
    "fastapi|flask|msgspec|opentelemetry|os|pa|pathlib|pd|pl|pyarrow|pyspark|"
    "pytest|ssl|starlette|tenacity|typing"
)
# What a module imports for type checkers alone, Sphinx sees without its home.
_UNRESOLVED = (
    r"Clock|DataFrame|MappingTable|RefreshLock|SparkSession|datetime|timedelta|"
    r"stop_base|wait_base|"
    r"Callable\[\[\]|uid2_async\.integrations\.fastapi\.get_refresher|"
    r"uid2_async\.publisher\.refresher\.Annotated|"
    r"Disk|uid2_async\.bulk\.private_files\.Disk|Monotonic"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_FOREIGN})\..*"),
    ("py:class", _UNRESOLVED),
    ("py:class", r"(uid2_async\..*\.)?([A-Z]|_\w+)"),
    ("py:class", r"uid2_async\.(\w+\.)*_\w+\.\w+|uid2_async\..*\.SetsCookies"),
]

# The last ones of a signature, which are for tests.
_PRIVATE = re.compile(r"(?:, \*)?(?:, _\w+[:=].*)(?=\))", re.DOTALL)
_NUMBERED = re.compile(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", re.MULTILINE)
_CITATION = re.compile(r"(?:docs/)?\b([a-z-]+)\.md(?: (\d+(?:\.\d+)?))?")


def label_sections(_: Sphinx, page: str, source: list[str]) -> None:
    """Give the numbered sections of protocol.md labels, by which docstrings cite."""
    if page == "protocol":
        source[0] = _NUMBERED.sub(r"(protocol-\1)=\n\g<0>", source[0])


def link_citations(*arguments: Any) -> None:
    """Make links of what docstrings cite: ``docs/protocol.md 6.6``, ``docs/web.md``."""

    def link(found: re.Match[str]) -> str:
        page, section = found.groups()
        if section and page == "protocol":
            return f":ref:`{found[0]} <protocol-{section}>`"
        return f":doc:`{found[0]} </{page}>`"

    lines = arguments[-1]
    lines[:] = [_CITATION.sub(link, line) for line in lines]


def hide_arguments(*arguments: Any) -> tuple[str, str | None] | None:
    """Leave out how errors and enumerations are made, and private arguments."""
    _, kind, _, thing, _, shown, returns = arguments
    if shown is None:
        return None
    if kind == "exception" or (kind == "class" and issubclass(thing, Enum)):
        return "", None
    return _PRIVATE.sub("", shown), returns


def add_description(*arguments: Any) -> None:
    """Give each page a meta description, which is its first paragraph."""
    _, _, _, context, doctree = arguments
    if doctree is not None:
        first = next(iter(doctree.findall(nodes.paragraph)), nodes.paragraph())
        text = escape(" ".join(first.astext().split())[:200])
        tag = f'<meta name="description" content="{text}">'
        context["metatags"] = f"{context.get('metatags', '')}\n{tag}"


def setup(app: Sphinx) -> None:
    """Connect the functions above to the build."""
    app.connect("html-page-context", add_description)
    app.connect("source-read", label_sections)
    app.connect("autodoc-process-signature", hide_arguments)
    app.connect("autodoc-process-docstring", link_citations)
