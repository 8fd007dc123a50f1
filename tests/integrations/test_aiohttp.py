"""aiohttp.web: the cleanup context and its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from consent import FULL_CONSENT
from uid2_async import IdentityTokens, errors
from uid2_async.integrations.aiohttp import CLIENT, REFRESHER, uid2_context
from uid2_async.operator import LocalOperator
from uid2_async.publisher import cookie_name, from_cookie, to_cookie

Settings = dict[str, Callable[..., Any]]


async def log_in(request: web.Request) -> web.Response:
    """Generate tokens into a cookie."""
    reply = await request.config_dict[CLIENT].generate_token(
        "a@example.com", tcf_consent_string=FULL_CONSENT
    )
    assert isinstance(reply, IdentityTokens)
    cookie = to_cookie(reply, secure=False, scope=request.config_dict[CLIENT].scope)
    return web.Response(headers={"Set-Cookie": cookie})


async def page(request: web.Request) -> web.Response:
    """Keep the cookie's tokens fresh."""
    scope = request.config_dict[CLIENT].scope
    held = from_cookie(request.cookies.get(cookie_name(scope)))
    assert isinstance(held, IdentityTokens)
    freshness = await request.config_dict[REFRESHER].ensure_fresh(held)
    response = web.json_response([freshness.state.name, freshness.changed])
    if freshness.changed:
        cookie = to_cookie(freshness.tokens, secure=False, scope=scope)
        response.headers.add("Set-Cookie", cookie)
    return response


def make_app(settings: Settings) -> web.Application:
    """Make a site whose pages are in a sub-application."""
    app = web.Application()
    app.cleanup_ctx.append(uid2_context(**settings))
    pages = web.Application()
    pages.add_routes([web.get("/login", log_in), web.get("/page", page)])
    app.add_subapp("/news/", pages)
    return app


async def test_client_and_refresher_live_as_long_as_the_application(
    settings: Settings, operator: LocalOperator, refreshes: Callable[[], int]
) -> None:
    """Handlers find both, in sub-applications too; the end closes the connections."""
    app = make_app(settings)
    async with TestClient(TestServer(app)) as browser:
        await browser.get("/news/login")
        operator.advance(7_200)
        first = await (await browser.get("/news/page")).json()
        second = await (await browser.get("/news/page")).json()

    assert (first, second) == (["FRESH", True], ["FRESH", False])
    assert refreshes() == 1
    assert "closed" in repr(app[CLIENT]._transport)


async def test_a_missing_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without UID2_BASE_URL the application does not come up."""
    for name in ("UID2_BASE_URL", "UID2_ENV"):
        monkeypatch.delenv(name, raising=False)
    app = web.Application()
    app.cleanup_ctx.append(uid2_context())

    with pytest.raises(errors.ConfigError, match="UID2_BASE_URL"):
        await web.AppRunner(app).setup()
