"""FastAPI: dependencies, and their replacement in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from consent import FULL_CONSENT
from uid2_async import Freshness, IdentityTokens, TokenState
from uid2_async.operator import LocalOperator
from uid2_async.publisher import to_session

pytest.importorskip("fastapi")
# The test client needs one of two packages beside FastAPI.
testclient = pytest.importorskip("fastapi.testclient", exc_type=ImportError)

from fastapi import FastAPI, Request, WebSocket  # noqa: E402 - see above
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402 - see above

from uid2_async.integrations.fastapi import (  # noqa: E402 - see above
    ClientDep,
    FreshnessDep,
    RefresherDep,
    get_client,
    get_freshness,
    get_refresher,
    uid2_lifespan,
)

Settings = dict[str, Callable[..., Any]]


class OneSession:
    """Gives every request the same session."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app
        self._session: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["session"] = self._session
        await self._app(scope, receive, send)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """Make a small site."""
    app = FastAPI(lifespan=uid2_lifespan(**settings))
    app.add_middleware(OneSession)

    @app.get("/login")
    async def log_in(request: Request, client: ClientDep) -> None:
        reply = await client.generate_token(
            "a@example.com", tcf_consent_string=FULL_CONSENT
        )
        assert isinstance(reply, IdentityTokens)
        request.session["uid2"] = to_session(reply)

    @app.get("/page")
    async def page(freshness: FreshnessDep) -> Any:
        return freshness and (freshness.state.name, freshness.changed)

    @app.get("/refresher")
    async def refresher(refresher: RefresherDep) -> str:
        return type(refresher).__name__

    @app.websocket("/socket")
    async def socket(socket: WebSocket, client: ClientDep) -> None:
        await socket.accept()
        await socket.send_text(repr(client))
        await socket.close()

    return app


@pytest.fixture
def browser(app: FastAPI) -> Iterator[Any]:
    """Give a test client of the site."""
    with testclient.TestClient(app) as opened:
        yield opened


def test_a_route_keeps_tokens_fresh_by_its_annotation(
    browser: Any, operator: LocalOperator, refreshes: Callable[[], int]
) -> None:
    """FreshnessDep refreshes what is due, once."""
    assert browser.get("/page").json() is None
    browser.get("/login")
    assert browser.get("/page").json() == ["FRESH", False]
    operator.advance(7_200)
    assert browser.get("/page").json() == ["FRESH", True]
    assert browser.get("/page").json() == ["FRESH", False]
    assert refreshes() == 1


def test_the_refresher_is_a_dependency(browser: Any) -> None:
    """Handlers that store tokens elsewhere get the refresher itself."""
    assert browser.get("/refresher").json() == "TokenRefresher"


def test_websockets_get_the_client_too(browser: Any, operator: LocalOperator) -> None:
    """The dependencies take any connection."""
    with browser.websocket_connect("/socket") as socket:
        assert operator.url in socket.receive_text()


def test_dependencies_can_be_overridden(app: FastAPI, operator: LocalOperator) -> None:
    """A test without any operator replaces client, refresher and freshness."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    tokens = IdentityTokens(
        advertising_token="made-up",
        refresh_token="made-up",
        refresh_response_key=None,
        identity_expires=now,
        refresh_from=now,
        refresh_expires=now,
    )

    class Double:
        async def generate_token(self, _: str, **options: object) -> IdentityTokens:
            return tokens

        async def ensure_fresh(self, given: IdentityTokens) -> Freshness:
            assert given == tokens
            return Freshness(tokens=given, state=TokenState.DUE, changed=False)

    app.dependency_overrides[get_client] = Double
    app.dependency_overrides[get_refresher] = Double
    with testclient.TestClient(app) as browser:
        browser.get("/login")
        assert browser.get("/page").json() == ["DUE", False]
        app.dependency_overrides[get_freshness] = lambda: None
        assert browser.get("/page").json() is None
    assert operator.calls == []
