"""Identity tokens as the scripts of a page take them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope, OptedOut
from uid2_async.publisher.session import to_session
from uid2_async.publisher.systems import SYSTEMS

__all__ = ["to_js_sdk", "to_prebid_params"]


def to_js_sdk(
    identity: IdentityTokens | OptedOut, *, now: datetime | None = None
) -> dict[str, Any]:
    """Make the ``identity`` for ``__uid2.init({identity})`` of the official web SDK.

    The same for ``__euid``. From then on the page refreshes the tokens: the server must
    not refresh them as well. Unknown keys, such as the SDK's own ``private``, are kept.
    They may come from a cookie: write the object into a page with an encoder that is
    safe in HTML, such as Jinja's ``tojson``.

    Args:
        identity: The tokens; or an opt-out, which becomes the SDK's own marker.
        now: For an opt-out, as :func:`~uid2_async.publisher.to_session`.

    Raises:
        InputError: If *now* is naive.
    """
    return to_session(identity, now=now)


def to_prebid_params(
    tokens: IdentityTokens,
    *,
    mode: Literal["client_refresh", "server_only"] = "client_refresh",
    scope: IdentityScope = IdentityScope.UID2,
    cookie: str | None = None,
    api_base: str | None = None,
) -> dict[str, Any]:
    """Make an entry of Prebid's ``userSync.userIds``, for uid2IdSystem or euidIdSystem.

    With ``client_refresh`` the page refreshes: pass the tokens as they were generated
    and do not refresh them on the server, since Prebid.js throws its own away as soon
    as it is given other ones. With ``server_only`` the page gets the advertising token
    alone: pass usable ones, refreshed for each page. uid2IdSystem does nothing where
    GDPR applies; euidIdSystem works only where it applies and consent is given. See
    :func:`to_js_sdk` for writing it into a page.

    Args:
        tokens: What generate or the last refresh returned.
        mode: Who refreshes.
        scope: Which system the tokens are of.
        cookie: The name of the cookie from which the page reads them, made with
            :func:`~uid2_async.publisher.to_cookie`, instead of the entry itself. With
            ``server_only`` only the one of Prebid.js, ``__uid2_advertising_token`` or
            ``__euid_advertising_token``.
        api_base: With ``client_refresh``, the operator that the page asks, if it
            is not the production one.

    Raises:
        InputError: If the mode is unknown, or *cookie* or *api_base* do not go with it.
    """
    if mode == "client_refresh":
        return _client_refresh(tokens, scope, cookie, api_base)
    if mode == "server_only":
        return _server_only(tokens, scope, cookie, api_base)
    raise InputError("The mode must be client_refresh or server_only.")


def _client_refresh(
    tokens: IdentityTokens,
    scope: IdentityScope,
    cookie: str | None,
    api_base: str | None,
) -> dict[str, Any]:
    """Give the page everything, or the name of the cookie with it."""
    name = SYSTEMS[scope].prebid_name
    params: dict[str, Any] = {}
    if cookie is None:
        params[f"{name}Token"] = tokens.to_dict()
    else:
        params[f"{name}Cookie"] = cookie
    if api_base is not None:
        params[f"{name}ApiBase"] = api_base
    return {"name": name, "params": params}


def _server_only(
    tokens: IdentityTokens,
    scope: IdentityScope,
    cookie: str | None,
    api_base: str | None,
) -> dict[str, Any]:
    """Give the page the advertising token, or nothing if a cookie has it."""
    system = SYSTEMS[scope]
    if api_base is not None:
        raise InputError(
            "With server_only, the page does not contact an operator: omit api_base."
        )
    if cookie is None:
        value = {system.prebid_name: {"id": tokens.advertising_token}}
        return {"name": system.prebid_name, "value": value}
    if cookie != system.token_cookie:
        raise InputError(
            f"With server_only, Prebid.js reads only the cookie {system.token_cookie}."
        )
    return {"name": system.prebid_name}


strip_tracebacks(globals())
