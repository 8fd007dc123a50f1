"""What docs/web.md shows is code that works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from uid2_async import IdentityScope
from uid2_async.operator import LocalOperator

PAGE = (Path(__file__).parents[2] / "docs" / "web.md").read_text(encoding="utf-8")
DJANGO, FLASK, FASTAPI, STARLETTE, LIFESPAN, AIOHTTP = re.findall(
    r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


@pytest.fixture
def scope() -> IdentityScope:
    """Run in one system, whose variables the page names."""
    return IdentityScope.UID2


@pytest.fixture
def load(
    operator: LocalOperator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Run a block where the environment names the operator; give its application."""
    monkeypatch.setenv("UID2_BASE_URL", operator.url)
    monkeypatch.setenv("UID2_API_KEY", operator.api_key)
    monkeypatch.setenv("UID2_SECRET_KEY", operator.client_secret)

    def load(block: str) -> Any:
        names: dict[str, Any] = {"__name__": "block"}
        # dont_inherit: this module's own "annotations" is not the block's.
        code = compile(block, "docs/web.md", "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 - our own documentation
        return names["app"] if "app" in names else names["create_app"]()

    return load


def test_the_fastapi_block_logs_in_and_shows_a_token(
    load: Callable[[str], Any],
) -> None:
    """The session of the documentation holds tokens from one request to the next."""
    for needed in ("fastapi", "python_multipart"):
        pytest.importorskip(needed)
    testclient = pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    with testclient.TestClient(load(FASTAPI), "https://testserver") as browser:
        assert browser.get("/article").json() == {"token": None}
        browser.post("/login", data={"email": "a@example.com"}).raise_for_status()
        assert len(browser.get("/article").json()["token"]) > 100


def test_the_flask_block_logs_in_and_shows_a_token(load: Callable[[str], Any]) -> None:
    """And says what is wrong with an email address."""
    pytest.importorskip("flask")
    app = load(FLASK)
    browser = app.test_client()
    assert browser.get("/article").json == {"token": None}
    assert browser.post("/login", data={"email": "nobody"}).status_code == 400
    browser.post("/login", data={"email": "a@example.com"})
    assert len(browser.get("/article").json["token"]) > 100
    app.extensions["uid2"].client.close()


@pytest.mark.parametrize("block", [STARLETTE, LIFESPAN], ids=["middleware", "lifespan"])
def test_the_starlette_blocks_start(load: Callable[[str], Any], block: str) -> None:
    """The application comes up, and a visitor without tokens is served."""
    pytest.importorskip("starlette")
    testclient = pytest.importorskip("starlette.testclient", exc_type=ImportError)
    with testclient.TestClient(load(block)) as browser:
        if block == STARLETTE:
            assert browser.get("/articles/today").json() is None


async def test_the_aiohttp_block_starts(load: Callable[[str], Any]) -> None:
    """A visitor without a cookie is served, and one who logs in has a token."""
    app: web.Application = load(AIOHTTP)
    async with TestClient(TestServer(app)) as browser:
        reply = await browser.get("/article")
        assert await reply.text() == "no token"
        reply = await browser.post("/login", data={"email": "a@example.com"})
        cookies = {name: one.value for name, one in reply.cookies.items()}
        reply = await browser.get("/article", cookies=cookies)
        assert len(await reply.text()) > 100
