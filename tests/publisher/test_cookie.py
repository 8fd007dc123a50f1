"""Cookies, read as browsers, the web SDK and Prebid.js read them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from uid2_async import IdentityScope, IdentityTokens, OptedOut
from uid2_async.errors import InputError
from uid2_async.publisher import cookie_name, from_cookie, to_cookie

EUID = IdentityScope.EUID
DAY = 86_400


def value_of(cookie: str) -> str:
    """Take the value as a browser would send it back."""
    return cookie.split("; ", maxsplit=1)[0].split("=", 1)[1]


def attributes_of(cookie: str) -> list[str]:
    """List what stands after the value."""
    return cookie.split("; ")[1:]


def test_an_identity_is_a_cookie(plain: IdentityTokens, now: datetime) -> None:
    """It lives as long as the refresh token, only for the host and on https."""
    cookie = to_cookie(plain, now=now)

    assert cookie.startswith("__uid_2=%7B%22advertising_token%22%3A%22adv%2B%2F%3D")
    assert attributes_of(cookie) == [
        *("Path=/", f"Max-Age={30 * DAY}", "Secure", "SameSite=Lax")
    ]
    assert from_cookie(value_of(cookie)) == plain


def test_every_attribute_can_be_chosen(plain: IdentityTokens, now: datetime) -> None:
    """Name, domain, path, Secure, HttpOnly and SameSite are the site's choice."""
    cookie = to_cookie(
        plain,
        name="__Secure-uid2",
        domain=".example.com",
        path="/shop/%C3%A4",
        http_only=True,
        same_site="None",
        now=now,
    )

    assert cookie.startswith("__Secure-uid2=%7B")
    assert attributes_of(cookie) == [
        "Path=/shop/%C3%A4",
        f"Max-Age={30 * DAY}",
        "Domain=.example.com",
        *("Secure", "HttpOnly", "SameSite=None"),
    ]
    plain_http = to_cookie(plain, secure=False, same_site="Strict", now=now)
    assert attributes_of(plain_http)[2:] == ["SameSite=Strict"]


def test_names_are_those_that_scripts_look_for(plain: IdentityTokens) -> None:
    """The web SDK and Prebid.js each have a name in each system."""
    assert cookie_name() == "__uid_2"
    assert cookie_name(EUID) == "__euid"
    assert to_cookie(plain, scope=EUID).startswith("__euid=%7B")
    token = to_cookie(plain, content="advertising_token")
    assert token.startswith("__uid2_advertising_token=adv%2B%2F%3D")
    token = to_cookie(plain, content="advertising_token", scope=EUID)
    assert token.startswith("__euid_advertising_token=adv")


def test_a_token_alone_lives_as_long_as_it_is_good(
    plain: IdentityTokens, now: datetime
) -> None:
    """Prebid.js cannot tell its age in server-only mode: the browser drops it."""
    cookie = to_cookie(plain, content="advertising_token", now=now)

    assert unquote(value_of(cookie)) == plain.advertising_token
    assert f"Max-Age={3 * DAY}" in cookie
    late = to_cookie(plain, content="advertising_token", now=now + timedelta(days=9))
    assert "Max-Age=0" in late


def test_an_opt_out_is_a_cookie_and_deletes_the_token(now: datetime) -> None:
    """The marker stays for 72 hours; the token goes at once."""
    cookie = to_cookie(OptedOut(), now=now)

    assert json.loads(unquote(value_of(cookie)))["status"] == "optout"
    assert f"Max-Age={3 * DAY}" in cookie
    assert from_cookie(value_of(cookie), now=now) == OptedOut()
    assert from_cookie(value_of(cookie), now=now + timedelta(days=3)) is None
    gone = to_cookie(OptedOut(), content="advertising_token", now=now)
    assert gone.startswith("__uid2_advertising_token=; Path=/; Max-Age=0")


def test_logging_out_deletes_the_same_cookie(plain: IdentityTokens) -> None:
    """A browser finds it by name, domain and path."""
    place: dict[str, Any] = {"domain": "example.com", "path": "/a"}
    kept = attributes_of(to_cookie(plain, **place))
    gone = to_cookie(None, **place)

    assert gone.startswith("__uid_2=; ")
    assert [one for one in attributes_of(gone) if one != "Max-Age=0"] == [
        one for one in kept if not one.startswith("Max-Age")
    ]
    assert from_cookie("") is None
    assert from_cookie(None) is None
    gone = to_cookie(None, content="advertising_token")
    assert gone.startswith("__uid2_advertising_token=; Path=/; Max-Age=0")


def test_a_cookie_that_browsers_would_drop_is_refused(plain: IdentityTokens) -> None:
    """Up to 4,096 bytes are safe, attributes included; the error names the way out."""
    room = 4_096 - len(to_cookie(replace(plain, advertising_token="")))

    fits = to_cookie(replace(plain, advertising_token="x" * room))
    assert len(fits) == 4_096
    with pytest.raises(InputError, match="4097 bytes, more than 4096") as caught:
        to_cookie(replace(plain, advertising_token="x" * (room + 1)))
    assert "session on the server" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "a=b"},
        {"name": "ä"},
        {"name": "a\r\nSet-Cookie: b"},
        {"name": "a.*"},
        {"domain": "example.com; Secure"},
        {"domain": ""},
        {"domain": "exa mple"},
        {"path": "a"},
        {"path": "/; HttpOnly"},
        {"path": "/\r\nX: y"},
        {"path": "/ä"},
        {"same_site": "None", "secure": False},
        {"content": "everything"},
        {"now": datetime(2026, 1, 1)},  # noqa: DTZ001 - the mistake under test
    ],
)
def test_nothing_breaks_out_of_its_attribute(
    plain: IdentityTokens, options: dict[str, Any]
) -> None:
    """Wrong options are refused before a header is made of them."""
    with pytest.raises(InputError):
        to_cookie(plain, **options)


@pytest.mark.parametrize(
    "value",
    [
        *("canary", "%7Bcanary", "%FFcanary", "%7B%7D%", "{canary", "{}"),
        *("canary\udc80", "{canary\udc80", b"canary", 5),
    ],
)
def test_a_forged_cookie_is_refused_and_not_shown(value: Any) -> None:
    """Anybody can send anything; errors show nothing of it."""
    with pytest.raises(InputError) as caught:
        from_cookie(value)

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_decoded_value_is_taken_too(plain: IdentityTokens) -> None:
    """Some frameworks decode cookies: what is JSON already is not decoded twice."""
    odd = replace(plain, extra={"private": "100%25"})
    value = value_of(to_cookie(odd))

    assert from_cookie(value) == odd
    assert from_cookie(unquote(value)) == odd


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=4,
)


def read_by_web_sdk(sent: str, name: str) -> Any:
    """Read a ``document.cookie`` as CookieManager of uid2-web-integrations does."""
    row = next(one for one in sent.split("; ") if one.startswith(name + "="))
    return json.loads(unquote(row.split("=")[1], errors="strict"))


def read_by_prebid(sent: str, name: str) -> Any:
    """Read a ``document.cookie`` as storageManager of Prebid.js does."""
    found = re.search(rf"(^|;)\s*{name}\s*=\s*([^;]*)\s*(;|$)", sent)
    assert found is not None
    return json.loads(unquote(found[2], errors="strict"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_any_cookie_survives_every_reader(
    plain: IdentityTokens, extra: dict[str, Any]
) -> None:
    """Python, the web SDK and Prebid.js read the same, with unknown keys kept."""
    tokens = IdentityTokens.from_dict(extra | {"status": "x"} | plain.to_dict())

    cookie = to_cookie(tokens)
    sent = f"a=b; {cookie.split('; ')[0]}; c=d"

    assert cookie.isascii()
    assert read_by_web_sdk(sent, "__uid_2") == tokens.to_dict()
    assert read_by_prebid(sent, "__uid_2") == tokens.to_dict()
    assert from_cookie(SimpleCookie(sent)["__uid_2"].value) == tokens
