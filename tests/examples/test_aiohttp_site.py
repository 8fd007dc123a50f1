"""The example site on aiohttp.web."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer

from uid2_async import RetryPolicy, UID2Client
from uid2_async.operator import Fault, LocalOperator

EMAIL = {"email": "reader@example.com"}


@pytest.fixture
async def browser(
    load: Callable[[str], ModuleType], operator: LocalOperator
) -> AsyncIterator[TestClient[Any, Any]]:
    """Visit the site; its operator's clock can be moved."""
    make_client = partial(
        UID2Client,
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        retry=RetryPolicy.never(),
    )
    server = TestServer(load("aiohttp_site").make_app(make_client))
    await server.start_server()
    # Browsers hold this machine for secure; aiohttp's jar does so on request.
    jar = CookieJar(unsafe=True, treat_as_secure_origin=server.make_url("/").origin())
    async with TestClient(server, cookie_jar=jar) as opened:
        yield opened


async def text(
    browser: TestClient[Any, Any], form: str | None = None, **fields: str
) -> str:
    """Read the page, or the one that comes after a form."""
    reply = await (browser.post(form, data=fields) if form else browser.get("/"))
    return await reply.text()


async def test_a_visit(browser: TestClient[Any, Any], operator: LocalOperator) -> None:
    """Log in, read, log out; the token is in the cookie alone."""
    assert "Log in" in await text(browser)
    assert "token is fresh" in await text(browser, "/login", **EMAIL)
    (cookie,) = browser.session.cookie_jar
    assert cookie["httponly"]
    assert "Log in" in await text(browser, "/logout")
    assert [call.path for call in operator.calls] == ["/v2/token/generate"]


async def test_somebody_who_opted_out(
    browser: TestClient[Any, Any], operator: LocalOperator
) -> None:
    """The site remembers it, and does not ask again."""
    operator.opt_out(EMAIL["email"])

    assert "has opted out" in await text(browser, "/login", **EMAIL)
    assert "has opted out" in await text(browser)
    assert len(operator.calls) == 1


@pytest.mark.parametrize("status", [200, 503])
async def test_logging_in_replaces_planted_tokens(
    browser: TestClient[Any, Any], operator: LocalOperator, status: int
) -> None:
    """No visitor keeps tokens that another person has put into the browser."""
    await text(browser, "/login", email="attacker@example.com")
    (planted,) = browser.session.cookie_jar
    if status != 200:
        operator.fail_next(Fault(status=status))

    page = await text(browser, "/login", **EMAIL)

    held = {cookie.value for cookie in browser.session.cookie_jar}
    assert planted.value not in held
    assert ("token is fresh" in page) == (status == 200)


async def test_bad_moments(
    browser: TestClient[Any, Any], operator: LocalOperator
) -> None:
    """Neither an outage, nor nonsense in the form or the cookie breaks a page."""
    operator.fail_next(Fault(status=503))

    assert "Log in" in await text(browser, "/login", **EMAIL)
    assert "not an email address" in await text(browser, "/login", email="nobody")
    browser.session.cookie_jar.update_cookies({"__uid_2": "no tokens"})
    assert "Log in" in await text(browser)
