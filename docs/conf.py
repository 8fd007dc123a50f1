"""How Sphinx makes the documentation; ``nox -s docs`` builds it and runs its code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
    "command_reference",
]
exclude_patterns = ["_build"]
# What Sphinx can only cache as long as it lives in a file of its own.
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"uid2_async {version}"
html_copy_source = False
html_show_sphinx = False

autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True

# Every name must be found, but for those of others, type variables and private ones.
_FOREIGN = (
    "aiohttp|asyncio|collections|contextlib|cryptography|datetime|fastapi|msgspec|"
    "opentelemetry|os|pa|pathlib|pyarrow|pyspark|pytest|ssl|starlette|tenacity|typing"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_FOREIGN})\..*"),
    ("py:class", r"(uid2_async\..*\.)?([A-Z]|_\w+)"),
]


def setup(app: Sphinx) -> dict[str, Any]:
    """Nothing yet."""
    return {}
