"""Django and Flask: settings, the system check, and tokens that are refreshed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from uid2_async import IdentityScope, IdentityTokens, OptedOut, errors
from uid2_async.operator import LocalOperator
from uid2_async.publisher import SealedCookie

pytest.importorskip("django")
pytest.importorskip("flask")

from django.conf import settings
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.test.utils import override_settings
from flask import Flask

from uid2_async.integrations.django import (
    UID2Middleware,
    check,
    get_client,
)
from uid2_async.integrations.flask import UID2

SECRET = "a secret of the application, 40 chars long"
if not settings.configured:
    settings.configure(SECRET_KEY="overridden below")


@pytest.fixture
def scope() -> IdentityScope:
    """Run in one system."""
    return IdentityScope.UID2


@pytest.fixture
def given(operator: LocalOperator) -> Iterator[dict[str, Any]]:
    """Name the operator in the setting UID2."""
    uid2 = {
        "BASE_URL": operator.url,
        "API_KEY": operator.api_key,
        "SECRET_KEY": operator.client_secret,
        "TIMEOUT": 20,
    }
    with override_settings(UID2=uid2, SECRET_KEY=SECRET, ALLOWED_HOSTS=["*"]):
        yield uid2
        get_client().close()


def test_a_synchronous_view(given: dict[str, Any], operator: LocalOperator) -> None:
    """The login sets a cookie, the next page has its tokens, the logout deletes it."""
    cookies: dict[str, str] = {}

    def ask(view: Any) -> HttpResponse:
        request = RequestFactory().get("/")
        request.COOKIES.update(cookies)
        response: HttpResponse = UID2Middleware(view)(request)  # type: ignore[assignment] # synchronous
        cookies.update({key: one.value for key, one in response.cookies.items()})
        return response

    def log_in(request: Any) -> HttpResponse:
        assert isinstance(request.uid2.generate("user@example.com"), IdentityTokens)
        return HttpResponse()

    def page(request: Any) -> HttpResponse:
        return HttpResponse(request.uid2.freshness().advertising_token)

    def log_out(request: Any) -> HttpResponse:
        request.uid2.log_out()
        return HttpResponse()

    assert ask(log_in).cookies["uid2"]["httponly"]
    response = ask(page)
    assert len(response.content) > 100
    assert not response.cookies
    assert response["Vary"] == "Cookie"
    assert ask(log_out).cookies["uid2"]["max-age"] == 0
    assert not ask(lambda _: HttpResponse()).has_header("Vary")


async def test_an_asynchronous_view(given: dict[str, Any]) -> None:
    """The same by coroutines; who has opted out is remembered."""

    async def log_in(request: Any) -> HttpResponse:
        assert await request.uid2.agenerate("optout@example.com") == OptedOut()
        assert (await request.uid2.afreshness()).advertising_token is None
        assert request.uid2.identity == OptedOut()
        return HttpResponse()

    response = await UID2Middleware(log_in)(AsyncRequestFactory().get("/"))  # type: ignore[misc] # asynchronous
    assert response.cookies["uid2"]["secure"]


def test_the_system_check(given: dict[str, Any]) -> None:
    """It finds what the doctor finds in the settings, and no value is shown."""
    assert check() == []
    bad = [
        ({"API_KEY": ""}, "UID2_API_KEY is not set", "uid2.F010"),
        ({"BASE_URL": "http://x.example/v2"}, "base URL", "uid2.F011"),
        ({"SECRET_KEY": given["API_KEY"]}, "client secret", "uid2.F013"),
        ({"COOKIE": {"keys": "short"}}, "32 characters", "uid2.E001"),
        ({"SCOPE": "UID3"}, "UID2 is invalid", "uid2.E001"),
    ]
    for change, message, number in bad:
        with override_settings(UID2={**given, **change}):
            found = check()
            assert (message in found[0].msg, found[0].id) == (True, number)
            assert given["API_KEY"] not in str(found)
    with (
        override_settings(UID2={**given, "API_KEY": ""}),
        pytest.raises(errors.ConfigError),
    ):
        UID2Middleware(lambda _: HttpResponse())


def test_flask_refreshes_and_deletes(
    given: dict[str, Any], plain: dict[str, Any], operator: LocalOperator
) -> None:
    """Tokens that are dead are deleted from the cookie; no key is an error."""
    app = Flask("site")
    app.config["UID2"] = given
    with pytest.raises(errors.ConfigError, match="SECRET_KEY"):
        UID2(app)
    app.secret_key = SECRET
    uid2 = UID2(app)

    @app.get("/")
    def page() -> str:
        freshness = uid2.visitor.freshness()
        return freshness.state.name if freshness else "nobody"

    browser = app.test_client()
    assert browser.get("/").text == "nobody"
    browser.set_cookie("uid2", SealedCookie(SECRET).seal({"uid2": plain}))
    assert browser.get("/").text == "DEAD"
    assert browser.get("/").text == "nobody"
    browser.set_cookie("uid2", SealedCookie(SECRET).seal({"uid2": {"a": 1}}))
    assert browser.get("/").text == "DEAD"
    assert browser.get("/").text == "nobody"
    with app.app_context():
        uid2.client.close()
    assert operator.calls == []


@pytest.fixture
def plain() -> dict[str, Any]:
    """Give tokens of long ago, as a session keeps them."""
    return {
        "advertising_token": "a" * 200,
        "refresh_token": "r" * 388,
        "refresh_response_key": "wR5t6HKMfJ2r4J7fEGX9Gw==",
        "identity_expires": 1,
        "refresh_from": 1,
        "refresh_expires": 1,
    }
