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
_TITLE = re.compile(r"^# .+\n", re.MULTILINE)
_CITATION = re.compile(r"(?:docs/)?\b([a-z-]+)\.md(?: (\d+(?:\.\d+)?))?")

# What people type into the search box, by the page that should come first. Sphinx ranks
# an index entry by how much of it is typed, above titles, objects and text.
SEARCH_WORDS = {
    "cli": "exit code, command line, completion",
    "doctor": "doctor, troubleshooting, diagnose",
    "errors": "exception, error",
    "files": "Parquet, JSON lines, JSONL, file format, Excel, national phone number",
    "guides/advertisers": "CSV, advertiser, audience, salt rotation, opt-out",
    "guides/bidders": "OpenRTB, bid request, bidstream, DSP, eids, webhook",
    "guides/containers": "Docker, Kubernetes, container, CronJob, compose",
    "guides/dataframes": "pandas, polars, DuckDB, DataFrame, notebook, Jupyter",
    "guides/forget": "purge, GDPR, erasure, forget, delete a person",
    "guides/from-official-sdk": "uid2_client, uid2-client, official SDK, migrate",
    "guides/processes": "Lambda, Celery, gunicorn, uWSGI, fork, multiprocessing, sync",
    "guides/proxy": "proxy, HTTPS_PROXY, private CA, SSL_CERT_FILE, certificate",
    "guides/publishers": "Prebid, Prebid.js, consent, TCF, web SDK, publisher",
    "guides/schedulers": "Airflow, cron, scheduler, XCom",
    "guides/sharers": "sharing, sharing token, keyset, encrypt, decrypt",
    "guides/stores": "S3, GCS, Azure, MinIO, PostgreSQL, Postgres, SQL, database, "
    "Delta Lake, object store, BigQuery",
    "observability": "Prometheus, OpenTelemetry, metrics, logging, monitoring, alerts",
    "performance": "benchmark, benchmarks",
    "reliability": "retry, timeout, rate limit, 429, failover, clock skew, outage",
    "sandbox": "sandbox, Java, JavaScript, Go, curl, console",
    "scale": "sizing, estimate",
    "security": "privacy, PII, DII",
    "settings": "environment variable, configuration, UID2_ENV, UID2_BASE_URL",
    "spark": "Spark, PySpark, Databricks, Iceberg, Ray, Dask, Daft, pyarrow, Arrow",
    "start": "install, installation, pip, uv",
    "state": "state file, SQLite, delta, incremental",
    "testing": "pytest, unittest, fixture, mock, freezegun, time-machine",
    "web": "Django, Flask, FastAPI, Starlette, aiohttp, WSGI, ASGI, cookie, session",
    "when-to-use": "Snowflake, Entity Resolution, clean room",
}


def index_words(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the page's search words below its title, as main entries of the index."""
    if words := SEARCH_WORDS.get(page):
        entries = ", ".join(f"! {word}" for word in words.split(", "))
        directive = f"\\g<0>\n```{{index}} {entries}\n```\n"
        source[0] = _TITLE.sub(directive, source[0], count=1)


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
    app.connect("source-read", index_words)
    app.connect("autodoc-process-signature", hide_arguments)
    app.connect("autodoc-process-docstring", link_citations)
