"""What scripts of a page take, by the rules that they check themselves.

The web SDK's rules are those of uid2-web-integrations: isValidIdentity,
isOptoutIdentity and getIdentityStatus. Prebid's are those of uid2IdSystem, euidIdSystem
and what they share. Both are written down here as they stand there.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from uid2_async import IdentityScope, IdentityTokens, OptedOut, TokenState
from uid2_async.errors import InputError
from uid2_async.publisher import (
    Freshness,
    cookie_name,
    from_session,
    to_js_sdk,
    to_prebid_params,
)

UID2, EUID = IdentityScope
KEYS = (
    *("advertising_token", "identity_expires", "refresh_from"),
    *("refresh_token", "refresh_expires"),
)


def is_valid_identity(identity: Any) -> bool:
    """Check as the web SDK does: every key is there."""
    return isinstance(identity, dict) and all(key in identity for key in KEYS)


def is_valid_for_prebid(identity: Any) -> bool:
    """Check as Prebid.js does: every key is there and not false."""
    return isinstance(identity, dict) and all(identity.get(key) for key in KEYS)


def web_sdk_status(identity: Any, now_ms: int) -> str:
    """Judge as getIdentityStatus of the web SDK does."""
    if not identity:
        return "NO_IDENTITY"
    if identity.get("status") == "optout":
        return "OPTOUT"
    if not identity.get("advertising_token") or not identity.get("refresh_token"):
        return "INVALID"
    if identity["refresh_expires"] <= now_ms:
        return "REFRESH_EXPIRED"
    if identity["identity_expires"] <= now_ms:
        return "EXPIRED"
    return "ESTABLISHED"


def through_json(value: Any) -> Any:
    """Hand *value* over as a page gets it."""
    return json.loads(json.dumps(value))


def test_the_web_sdk_accepts_the_identity(plain: IdentityTokens) -> None:
    """All keys are there, times are ms, and ``private`` is still with them."""
    identity = through_json(to_js_sdk(plain))

    assert is_valid_identity(identity)
    assert identity["private"] == plain.extra["private"]
    assert identity["refresh_response_key"] == plain.refresh_response_key
    assert identity["identity_expires"] == plain.identity_expires.timestamp() * 1000
    assert from_session(identity) == plain


def test_operators_without_encryption_give_no_response_key(
    plain: IdentityTokens,
) -> None:
    """Scripts take a missing key for a reply in the clear; null would do as well."""
    bare = replace(plain, refresh_response_key=None)

    assert "refresh_response_key" not in to_js_sdk(bare)
    assert is_valid_identity(to_js_sdk(bare))


@pytest.mark.parametrize(
    ("age", "status", "state"),
    [
        (timedelta(0), "ESTABLISHED", TokenState.FRESH),
        (timedelta(hours=1), "ESTABLISHED", TokenState.DUE),
        (timedelta(hours=72, milliseconds=-1), "ESTABLISHED", TokenState.DUE),
        (timedelta(hours=72), "EXPIRED", TokenState.EXPIRED_REFRESHABLE),
        (
            timedelta(days=30, milliseconds=-1),
            "EXPIRED",
            TokenState.EXPIRED_REFRESHABLE,
        ),
        (timedelta(days=30), "REFRESH_EXPIRED", TokenState.DEAD),
    ],
)
def test_the_web_sdk_judges_age_as_we_do(
    plain: IdentityTokens,
    now: datetime,
    age: timedelta,
    status: str,
    state: TokenState,
) -> None:
    """Server and page agree at each edge."""
    later = now + age

    assert web_sdk_status(to_js_sdk(plain), int(later.timestamp() * 1000)) == status
    assert plain.state(later) is state


def test_the_web_sdk_knows_an_opt_out(now: datetime) -> None:
    """The marker is the SDK's own, and no identity."""
    marker = through_json(to_js_sdk(OptedOut(), now=now))

    assert web_sdk_status(marker, int(now.timestamp() * 1000)) == "OPTOUT"
    assert not is_valid_identity(marker)
    assert set(marker) == {"status", "identity_expires", "refresh_expires"}


@pytest.mark.parametrize(("scope", "name"), [(UID2, "uid2"), (EUID, "euid")])
def test_prebid_takes_the_whole_identity(
    plain: IdentityTokens, scope: IdentityScope, name: str
) -> None:
    """With client refresh it gets the body of generate, or the name of a cookie."""
    entry = through_json(
        to_prebid_params(plain, scope=scope, api_base="https://op.example")
    )

    assert entry["name"] == name
    assert set(entry["params"]) == {f"{name}Token", f"{name}ApiBase"}
    assert entry["params"][f"{name}ApiBase"] == "https://op.example"
    assert entry["params"][f"{name}Token"] == plain.to_dict()
    assert is_valid_for_prebid(entry["params"][f"{name}Token"])
    assert to_prebid_params(
        plain, mode="client_refresh", scope=scope, cookie="pub_cookie"
    ) == {"name": name, "params": {f"{name}Cookie": "pub_cookie"}}


@pytest.mark.parametrize(("scope", "name"), [(UID2, "uid2"), (EUID, "euid")])
def test_prebid_takes_the_token_alone(
    plain: IdentityTokens, scope: IdentityScope, name: str
) -> None:
    """In server-only mode it gets the advertising token, or finds it in its cookie."""
    mode: Any = "server_only"

    assert to_prebid_params(plain, mode=mode, scope=scope) == {
        "name": name,
        "value": {name: {"id": plain.advertising_token}},
    }
    cookie = cookie_name(scope, "advertising_token")
    assert to_prebid_params(plain, mode=mode, scope=scope, cookie=cookie) == {
        "name": name
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "client_refresh or server_only"),
        ({"mode": "server_only", "cookie": "mine"}, "__uid2_advertising_token"),
        ({"mode": "server_only", "api_base": "https://op.example"}, "omit api_base"),
    ],
)
def test_what_prebid_would_ignore_is_refused(
    plain: IdentityTokens, options: dict[str, Any], message: str
) -> None:
    """A parameter that goes nowhere is a mistake."""
    with pytest.raises(InputError, match=message):
        to_prebid_params(plain, **options)


def test_no_token_shows_in_a_result(plain: IdentityTokens) -> None:
    """What a handler may log of it gives nothing away."""
    found = Freshness(tokens=plain, state=TokenState.FRESH, changed=False)

    assert "adv" not in repr(found).replace("advertising", "")
