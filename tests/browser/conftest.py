"""Headless Chromium, a place to serve pages from, and Prebid.js.

``nox -s browser`` installs all of it. The environment may name other files:
CHROMIUM, CHROMEDRIVER, and PREBID_PACKAGE for the folder of npm's ``prebid.js``.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from uid2_async.operator import LocalOperator

EXAMPLES = Path(__file__).parents[2] / "examples"
PREBID_MODULES = (
    "userId",
    "uid2IdSystem",
    "euidIdSystem",
    "consentManagementTcf",
    "tcfControl",
)
# Root needs no-sandbox; the rest keeps Chromium from looking for the network.
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-GB",
)


def find(variable: str, name: str) -> str:
    """Find a program, or skip."""
    path = os.environ.get(variable) or shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    """Start Chromium with an empty profile."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = importlib.import_module("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = find("CHROMIUM", "chromium")
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    program = service.Service(find("CHROMEDRIVER", "chromedriver"))
    opened = webdriver.Chrome(options=options, service=program)
    opened.set_script_timeout(20)
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def serve() -> Callable[[Any], AbstractContextManager[str]]:
    """Serve an ASGI application in a thread."""
    uvicorn = pytest.importorskip("uvicorn")

    @contextmanager
    def serve(app: Any) -> Iterator[str]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", ws="none", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            listener.close()

    return serve


@pytest.fixture
def operator() -> Iterator[LocalOperator]:
    """Run an operator for the browser."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture
def site(
    operator: LocalOperator,
    serve: Callable[[Any], AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Serve the example site."""
    for needed in ("fastapi", "jinja2", "python_multipart"):
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("publisher_site.app")
    with serve(module.make_app(operator)) as url:
        yield url


@pytest.fixture(scope="session")
def prebid() -> str:
    """Put Prebid.js together from its prebuilt parts, as its own gulpfile does.

    Core, what the parts depend on, the modules, and processQueue() at the end.
    """
    package = os.environ.get("PREBID_PACKAGE")
    if package is None:
        pytest.skip("PREBID_PACKAGE does not name the folder of npm's prebid.js")
    chunks = Path(package) / "dist" / "chunks"
    needs = json.loads((chunks / "dependencies.json").read_text("utf-8"))
    core, *modules = ("prebid-core.js", *(f"{one}.js" for one in PREBID_MODULES))
    shared = [part for one in (core, *modules) for part in needs.get(one, [])]
    parts = dict.fromkeys([core, *shared, *modules])
    text = "\n;".join((chunks / one).read_text("utf-8") for one in parts)
    return f"{text}\n;pbjs.processQueue();\n"
