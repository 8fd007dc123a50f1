"""Starlette: the lifespan, keep_fresh, and the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consent import FULL_CONSENT
from uid2_async import UID2Client, errors
from uid2_async.operator import Fault, LocalOperator
from uid2_async.publisher import SealedCookie, to_session

pytest.importorskip("starlette", exc_type=ImportError)
# The test client needs one of two packages beside Starlette.
testclient = pytest.importorskip("starlette.testclient", exc_type=ImportError)

from starlette.applications import Starlette  # noqa: E402 - see above
from starlette.middleware import Middleware  # noqa: E402 - see above
from starlette.middleware.gzip import GZipMiddleware  # noqa: E402 - see above
from starlette.requests import Request  # noqa: E402 - see above
from starlette.responses import JSONResponse  # noqa: E402 - see above
from starlette.routing import Route  # noqa: E402 - see above
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402 - see above

from uid2_async.integrations.starlette import (  # noqa: E402 - see above
    FreshTokensMiddleware,
    SealedSessionMiddleware,
    keep_fresh,
    uid2_lifespan,
)

Settings = dict[str, Callable[..., Any]]
HOUR = 3_600.0


class OneSession:
    """Gives every request the same session."""

    def __init__(self, app: ASGIApp, session: dict[str, Any]) -> None:
        """Wrap *app*."""
        self._app = app
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["session"] = self._session
        await self._app(scope, receive, send)


async def log_in(request: Request) -> JSONResponse:
    """Generate tokens into the session."""
    reply = await request.state.uid2_client.generate_token(
        "a@example.com", tcf_consent_string=FULL_CONSENT
    )
    request.session["uid2"] = to_session(reply)
    return JSONResponse({})


async def article(request: Request) -> JSONResponse:
    """Tell what keep_fresh says."""
    return tell(await keep_fresh(request))


async def seen(request: Request) -> JSONResponse:
    """Tell what the middleware found."""
    return tell(request.state.uid2)


def tell(freshness: Any) -> JSONResponse:
    """Make an answer of *freshness*."""
    if freshness is None:
        return JSONResponse(None)
    return JSONResponse(
        {
            "token": freshness.advertising_token,
            "state": freshness.state.name,
            "changed": freshness.changed,
            "error": type(freshness.error).__name__,
        }
    )


@pytest.fixture
def session() -> dict[str, Any]:
    """Give the one session."""
    return {}


@pytest.fixture
def browser(settings: Settings, session: dict[str, Any]) -> Iterator[Any]:
    """Give a test client of a small site."""
    app = Starlette(
        routes=[
            Route("/login", log_in),
            Route("/article", article),
            Route("/asked/page", seen),
            Route("/page", seen),
        ],
        middleware=[
            Middleware(OneSession, session=session),
            Middleware(
                FreshTokensMiddleware,
                where=lambda request: request.url.path.startswith("/asked/"),
            ),
        ],
        lifespan=uid2_lifespan(**settings),
    )
    with testclient.TestClient(app) as opened:
        yield opened


def test_a_session_without_tokens_asks_nobody(
    browser: Any, operator: LocalOperator
) -> None:
    """Visitors who are not logged in cost no request."""
    assert browser.get("/article").json() is None
    assert browser.get("/asked/page").json() is None
    assert operator.calls == []


def test_fresh_tokens_are_left_alone(
    browser: Any, session: dict[str, Any], refreshes: Callable[[], int]
) -> None:
    """The session is not written while nothing is due."""
    browser.get("/login")
    held = dict(session["uid2"])

    told = browser.get("/article").json()

    assert (told["state"], told["changed"]) == ("FRESH", False)
    assert told["token"] == held["advertising_token"]
    assert session["uid2"] == held
    assert refreshes() == 0


def test_due_tokens_are_refreshed_into_the_session(
    browser: Any,
    operator: LocalOperator,
    session: dict[str, Any],
    refreshes: Callable[[], int],
) -> None:
    """The session holds the new tokens, and the next page needs no refresh."""
    browser.get("/login")
    held = dict(session["uid2"])
    operator.advance(2 * HOUR)

    told = browser.get("/article").json()

    assert (told["state"], told["changed"]) == ("FRESH", True)
    assert told["token"] == session["uid2"]["advertising_token"]
    assert told["token"] != held["advertising_token"]
    assert browser.get("/article").json()["changed"] is False
    assert refreshes() == 1


def test_an_outage_leaves_the_page_its_tokens(
    browser: Any, operator: LocalOperator, session: dict[str, Any]
) -> None:
    """Tokens that are due and not expired go on, with the error in sight."""
    browser.get("/login")
    held = dict(session["uid2"])
    operator.advance(2 * HOUR)
    operator.fail_next(Fault(status=400, body="{}"), times=2)

    told = browser.get("/article").json()

    assert told["token"] == held["advertising_token"]
    assert told["error"] != "NoneType"
    assert session["uid2"] == held


def test_an_opt_out_is_remembered_in_the_session(
    browser: Any,
    operator: LocalOperator,
    session: dict[str, Any],
    refreshes: Callable[[], int],
) -> None:
    """After an opt-out the session holds a marker, and the operator is left alone."""
    browser.get("/login")
    operator.opt_out("a@example.com")
    operator.advance(2 * HOUR)

    first = browser.get("/article").json()
    second = browser.get("/article").json()

    assert (first["state"], first["token"]) == ("OPTED_OUT", None)
    assert (second["state"], second["changed"]) == ("OPTED_OUT", False)
    assert session["uid2"]["status"] == "optout"
    assert "advertising_token" not in session["uid2"]
    assert refreshes() == 1


def test_dead_tokens_leave_the_session(
    browser: Any, operator: LocalOperator, session: dict[str, Any]
) -> None:
    """The handler gets one request to generate new tokens."""
    browser.get("/login")
    operator.advance(31 * 24 * HOUR)

    assert browser.get("/article").json()["state"] == "DEAD"
    assert "uid2" not in session
    assert browser.get("/article").json() is None


def test_a_damaged_session_counts_as_dead(
    browser: Any, session: dict[str, Any]
) -> None:
    """What cannot be read is dropped, so that the page works again."""
    session["uid2"] = {"advertising_token": 7}

    told = browser.get("/article").json()

    assert (told["state"], told["error"]) == ("DEAD", "InputError")
    assert "uid2" not in session


def test_the_middleware_works_only_where_asked(
    browser: Any, operator: LocalOperator, refreshes: Callable[[], int]
) -> None:
    """Pages that *where* does not name cause no refresh."""
    browser.get("/login")
    operator.advance(2 * HOUR)

    assert browser.get("/page").json() is None
    assert refreshes() == 0
    assert browser.get("/asked/page").json()["changed"] is True
    assert refreshes() == 1


async def open_session(request: Request) -> JSONResponse:
    """Use the session as the query says."""
    if "set" in request.query_params:
        request.session["name"] = request.query_params["set"]
    if "read" in request.query_params:
        return JSONResponse(request.session.get("name"))
    return JSONResponse({})


def test_no_cache_gives_a_sealed_session_to_somebody_else() -> None:
    """A response that depends on the cookie says so, and others need not."""
    cookie = SealedCookie("k" * 32)
    app = Starlette(
        routes=[Route("/", open_session)],
        middleware=[
            Middleware(SealedSessionMiddleware, cookie=cookie),
            Middleware(GZipMiddleware, minimum_size=1),
        ],
    )
    with testclient.TestClient(app, "https://testserver") as browser:
        plain = browser.get("/")
        stored = browser.get("/?set=a")
        page = browser.get("/?read")

    assert page.json() == "a"
    assert "Cookie" not in plain.headers.get("Vary", "")
    assert "set-cookie" in stored.headers
    for answer in (stored, page):
        assert answer.headers["Vary"].split(", ") == ["Accept-Encoding", "Cookie"]
    assert "set-cookie" not in page.headers


def test_the_lifespan_is_part_of_a_larger_one(settings: Settings) -> None:
    """An application with more to open yields all of it, and all of it is closed."""
    clients: list[UID2Client] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with uid2_lifespan(**settings)(app) as state:
            clients.append(state["uid2_client"])
            yield {**state, "db": "open"}

    async def page(request: Request) -> JSONResponse:
        await request.state.uid2_client.map_identities(["a@example.com"])
        return JSONResponse(request.state.db)

    app = Starlette(routes=[Route("/", page)], lifespan=lifespan)
    with testclient.TestClient(app) as opened:
        assert opened.get("/").json() == "open"
    (client,) = clients
    assert "closed" in repr(client._transport)


def test_a_missing_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without UID2_BASE_URL the application does not come up."""
    for name in ("UID2_BASE_URL", "UID2_ENV"):
        monkeypatch.delenv(name, raising=False)
    app = Starlette(lifespan=uid2_lifespan())

    with (
        pytest.raises(errors.ConfigError, match="UID2_BASE_URL"),
        testclient.TestClient(app),
    ):
        pass
