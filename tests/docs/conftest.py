"""What the tests of the documentation share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pages import ROOT
from uid2_async import IdentityScope
from uid2_async.operator import LocalOperator
from uid2_async.testing import OperatorThread


@pytest.fixture(scope="session")
def operators() -> Iterator[list[LocalOperator]]:
    """Run an embedded operator of each scope."""
    with OperatorThread() as thread:
        yield [thread.operator(scope) for scope in IdentityScope]


@pytest.fixture(scope="session")
def environment(operators: list[LocalOperator]) -> Mapping[str, str]:
    """Give an environment by which programs find the embedded operators."""
    found = dict(os.environ)
    for operator in operators:
        prefix = operator.data.scope
        found[f"{prefix}_BASE_URL"] = operator.url
        found[f"{prefix}_API_KEY"] = operator.api_key
        found[f"{prefix}_SECRET_KEY"] = operator.client_secret
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the built pages; ``nox -s docs`` has built them already."""
    if "UID2_SITE" in os.environ:
        return Path(os.environ["UID2_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q"]
    subprocess.run([*command, str(ROOT / "docs"), str(folder)], check=True)  # noqa: S603 - our own documentation
    return folder
