"""The snippets of docs/sandbox.md and of the console make a call as they stand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest

import pages
from uid2_async import IdentityScope
from uid2_async.operator import LocalOperator, OperatorData

# Go compiles its standard library when it runs for the first time.
pytestmark = pytest.mark.timeout(600)

PAGE = pages.ROOT / "docs" / "sandbox.md"
KEPT = pages.ROOT / "uid2_async" / "operator" / "console" / "snippets"
# By language of the page: the name in the console, the file, and what runs it.
LANGUAGES = {
    "sh": ("curl", "call.sh", ("bash",), "curl"),
    "python": ("Python", "call.py.txt", ("python3",), "python3"),
    "javascript": ("JavaScript", "call.mjs", ("node",), "node"),
    "java": ("Java", "Call.java", ("java",), "java"),
    "go": ("Go", "call.go", ("go", "run"), "go"),
}
# By key of the sample data: what its snippets call.
CALLS = {
    "publisher": "/v2/token/generate",
    "advertiser": "/v3/identity/map",
    "bidder": "/v2/key/bidstream",
    "sharer": "/v2/key/sharing",
}


def need(tool: str) -> None:
    """Skip where a language is not installed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on PATH")


def printed(language: str) -> str:
    """Return the snippet of the page."""
    text = (KEPT / LANGUAGES[language][1]).read_text(encoding="utf-8")
    found = [block.code for block in pages.blocks(PAGE, language)]
    return next(code for code in found if code == text)


@pytest.fixture(scope="module", params=IdentityScope, ids=str)
def operator(request: pytest.FixtureRequest) -> Iterator[LocalOperator]:
    """Run a sandbox with its console."""
    data = OperatorData.sample(scope=request.param)
    with LocalOperator.in_thread(data, console=True) as running:
        yield running


def run(
    command: tuple[str, ...], folder: Path, env: Mapping[str, str], text: str = ""
) -> str:
    """Run a snippet, and return what it printed."""
    done = subprocess.run(  # noqa: S603 - our own documentation
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(pages.ROOT), **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_snippet_of_the_page(
    language: str, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    """It prints tokens, by the variables that the sandbox prints."""
    _, name, command, tool = LANGUAGES[language]
    code = printed(language)
    need(tool)
    (tmp_path / name).write_text(code, encoding="utf-8")

    shown = run((*command, name), tmp_path, environment)

    assert "IdentityTokens" in shown if language == "python" else json.loads(shown)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_snippet_of_the_console(
    language: str, tmp_path: Path, operator: LocalOperator
) -> None:
    """Pasted into a shell, it makes the call that the chosen key may make."""
    name, *_, tool = LANGUAGES[language]
    need(tool)
    with urlopen(f"{operator.url}/_console/operator") as reply:  # noqa: S310 - ours
        roles = {one["name"]: one["snippets"] for one in json.load(reply)["roles"]}
    # The same program for each key, so one is enough where it takes seconds.
    chosen = list(CALLS) if language in {"sh", "javascript"} else ["bidder"]
    operator.reset()
    for role in chosen:
        run(("bash",), tmp_path, {}, roles[role][name])

    assert [(call.path, call.status) for call in operator.calls] == [
        (CALLS[role], 200) for role in chosen
    ]
