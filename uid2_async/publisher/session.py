"""Store identity tokens or an opt-out in sessions, cookies and the scripts of a page.

The names are those of the official web SDK (uid2-web-integrations) and of Prebid.js
(modules uid2IdSystem and euidIdSystem).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import system_clock
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens, read_object
from uid2_async.models import IdentityScope, OptedOut, ms_from_datetime

__all__ = [
    "OPT_OUT_KEPT",
    "cookie_name",
    "from_cookie",
    "from_session",
    "to_cookie",
    "to_js_sdk",
    "to_prebid_params",
    "to_session",
]


# --- in a session ---------------------------------------------------------------------

OPT_OUT_KEPT: Final = timedelta(hours=72)
"""How long an opt-out is remembered, as in the official web SDK."""


def to_session(
    identity: IdentityTokens | OptedOut, *, now: datetime | None = None
) -> dict[str, Any]:
    """Return a JSON object for the user's session, with times in ms.

    It contains everything that a refresh needs. Store it on the server, or in an
    encrypted HttpOnly cookie.

    Args:
        identity: The tokens, or an opt-out, which becomes the web SDK's marker
            ``{"status": "optout", ...}`` for 72 hours.
        now: The time from which the 72 hours count, as an aware datetime. Defaults to
            the current time.

    Raises:
        InputError: If *now* is naive.
    """
    if isinstance(identity, IdentityTokens):
        return identity.to_dict()
    ends = ms_from_datetime((now or system_clock()) + OPT_OUT_KEPT)
    return {"status": "optout", "identity_expires": ends, "refresh_expires": ends}


def from_session(
    stored: Mapping[str, Any] | str | bytes | None, *, now: datetime | None = None
) -> IdentityTokens | OptedOut | None:
    """Read an object that :func:`to_session` or an official SDK stored.

    Args:
        stored: The object or its JSON. None or empty if there is none.
        now: The current time, as an aware datetime, to check whether an opt-out has
            expired. Defaults to the system's.

    Returns:
        The tokens, which may have expired, with unknown keys; OptedOut, in which case
        do not generate tokens for this person; or None if nothing is stored or the
        opt-out is older than 72 hours.

    Raises:
        InputError: If it is damaged. The message contains the name of the field, but
            not its value.
    """
    if not stored:
        return None
    fields = stored if isinstance(stored, Mapping) else read_object(stored)
    # An opt-out takes precedence over anything stored with it.
    if fields.get("status") != "optout":
        return IdentityTokens.from_dict(fields)
    ends = fields.get("refresh_expires")
    ended = type(ends) is int and ends <= ms_from_datetime(now or system_clock())
    return None if ended else OptedOut()


# --- in a cookie that scripts read ----------------------------------------------------

Content: TypeAlias = Literal["identity", "advertising_token"]

# The smallest limit of browsers, including attributes (RFC 6265, 6.1).
_MAX_BYTES: Final = 4096
# Apart from letters and digits, JavaScript's encodeURIComponent does not encode these.
_UNQUOTED: Final = "-_.!~*'()"
# Prebid.js inserts the name into a regular expression without escaping it.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
_PATH: Final = re.compile(r"/[!-:<-~]*", re.ASCII)


def cookie_name(
    scope: IdentityScope = IdentityScope.UID2, content: Content = "identity"
) -> str:
    """Return the name of the cookie that scripts read.

    Returns:
        ``__uid_2`` or ``__euid`` for the whole identity (web SDK);
        ``__uid2_advertising_token`` or ``__euid_advertising_token`` (Prebid.js).
    """
    if content == "identity":
        return "__uid_2" if scope is IdentityScope.UID2 else "__euid"
    return f"__{scope.lower()}_advertising_token"


def to_cookie(  # noqa: PLR0913 - keyword options, each an attribute of the cookie
    identity: IdentityTokens | OptedOut | None,
    *,
    scope: IdentityScope = IdentityScope.UID2,
    content: Content = "identity",
    name: str | None = None,
    domain: str | None = None,
    path: str = "/",
    secure: bool = True,
    same_site: Literal["Strict", "Lax", "None"] = "Lax",
    http_only: bool = False,
    now: datetime | None = None,
) -> str:
    """Return the value of a ``Set-Cookie`` header.

    Browsers identify a cookie by its name, domain and path. To replace or delete it,
    pass the same ones at login, refresh and logout.

    Args:
        identity: The tokens; an opt-out, which becomes the web SDK's marker for 72
            hours; or None at logout, which deletes the cookie.
        scope: UID2 or EUID, which determines the name.
        content: ``identity`` for the whole identity as JSON, or ``advertising_token``
            for Prebid.js in server-only mode, where an opt-out deletes the cookie.
        name: The name. Defaults to that of :func:`cookie_name`.
        domain: The domain, including its subdomains. Defaults to the host alone.
        path: The path, including all paths below it.
        secure: Whether the cookie is sent only over https, or to localhost.
        same_site: Whether requests from other sites include it. ``None`` requires
            *secure*.
        http_only: Whether to hide it from scripts. Use it if only the server reads the
            cookie. The web SDK and Prebid.js need access.
        now: The time from which the maximum age counts, as an aware datetime. Defaults
            to the current time.

    Raises:
        InputError: If an option is not valid, or the cookie is larger than 4,096 bytes,
            which browsers may drop.
    """
    name = cookie_name(scope, content) if name is None else name
    _check(name, domain, path)
    if same_site == "None" and not secure:
        raise InputError("Browsers drop a cookie with SameSite=None without Secure.")
    now = now or system_clock()
    text, ends = _value(identity, content, now)
    max_age = max(0, ms_from_datetime(ends) - ms_from_datetime(now)) // 1000
    parts = [f"{name}={quote(text, safe=_UNQUOTED)}", f"Path={path}"]
    parts.append(f"Max-Age={max_age}")
    if domain is not None:
        parts.append(f"Domain={domain}")
    if secure:
        parts.append("Secure")
    if http_only:
        parts.append("HttpOnly")
    parts.append(f"SameSite={same_site}")
    cookie = "; ".join(parts)
    if len(cookie) > _MAX_BYTES:
        raise InputError(
            f"The cookie {name} has {len(cookie)} bytes, more than {_MAX_BYTES}.",
            hint="Keep the identity in a session on the server, or drop unknown keys.",
        )
    return cookie


def _check(name: str, domain: str | None, path: str) -> None:
    """Reject values that could add other attributes to the cookie."""
    if not _NAME.fullmatch(name):
        raise InputError("A cookie's name must be letters, digits, _ and -.")
    if domain is not None and not _DOMAIN.fullmatch(domain):
        raise InputError("A cookie's domain must be a host name, such as example.com.")
    if not _PATH.fullmatch(path):
        raise InputError("A cookie's path must start with / and be URI-encoded.")


def _value(
    identity: IdentityTokens | OptedOut | None, content: Content, now: datetime
) -> tuple[str, datetime]:
    """Return the value, and the time when it expires."""
    if content == "identity":
        if identity is None:
            return "", now
        text = msgspec.json.encode(to_session(identity, now=now)).decode()
        if isinstance(identity, OptedOut):
            return text, now + OPT_OUT_KEPT
        return text, identity.refresh_expires
    if content != "advertising_token":
        raise InputError("The content must be identity or advertising_token.")
    if isinstance(identity, IdentityTokens):
        return identity.advertising_token, identity.identity_expires
    return "", now


def from_cookie(
    value: str | None, *, now: datetime | None = None
) -> IdentityTokens | OptedOut | None:
    """Read the value of a cookie that :func:`to_cookie` or the web SDK set.

    Cookies can be forged. Only the operator can verify tokens, and unknown keys can
    have any content.

    Args:
        value: The value as the browser sent it, or decoded. None if there is no cookie.
        now: The current time, as in :func:`~uid2_async.publisher.from_session`.

    Returns:
        The same as :func:`~uid2_async.publisher.from_session`.

    Raises:
        InputError: If it is not an identity. The message never contains the value.
    """
    if not isinstance(value, str) or value.startswith("{"):
        return from_session(value, now=now)
    try:
        text = unquote(value, errors="strict")
    except UnicodeDecodeError:
        text = "%"  # not JSON, and contains no data
    return from_session(text, now=now)


# --- in the scripts of a page ---------------------------------------------------------


def to_js_sdk(
    identity: IdentityTokens | OptedOut, *, now: datetime | None = None
) -> dict[str, Any]:
    """Return the ``identity`` for ``__uid2.init({identity})`` of the official web SDK.

    It is the same for ``__euid``. From then on, the page refreshes the tokens, and the
    server must not. Unknown keys are preserved, such as ``private``, which the SDK
    adds. They may come from a cookie. Embed the object in a page with an encoder that
    is safe in HTML, such as Jinja's ``tojson``.

    Args:
        identity: The tokens, or an opt-out, which becomes the SDK's own marker.
        now: The time of an opt-out, as in :func:`~uid2_async.publisher.to_session`.

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
    """Return an entry of Prebid's ``userSync.userIds`` (uid2IdSystem, euidIdSystem).

    With ``client_refresh``, the page refreshes the tokens. Pass them as they were
    generated, and do not refresh them on the server: Prebid.js discards its refreshed
    tokens when it receives others. With ``server_only``, the page receives only the
    advertising token. Pass usable tokens, and refresh them for each page. uid2IdSystem
    does nothing where the GDPR applies. euidIdSystem works only where it applies and
    consent was given. To embed the entry in a page, see :func:`to_js_sdk`.

    Args:
        tokens: The tokens that a generate or refresh call returned.
        mode: Whether the page or the server refreshes the tokens.
        scope: UID2 or EUID.
        cookie: The name of the cookie, set by :func:`~uid2_async.publisher.to_cookie`,
            from which the page reads the tokens instead of from the entry. With
            ``server_only``, only ``__uid2_advertising_token`` or
            ``__euid_advertising_token``, which Prebid.js reads.
        api_base: The base URL of the operator that the page calls with
            ``client_refresh``. Defaults to production.

    Raises:
        InputError: If the mode is unknown, or *cookie* or *api_base* cannot be used
            with it.
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
    """Return an entry with all tokens, or with the name of the cookie."""
    name = scope.lower()
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
    """Return an entry with the advertising token, unless it is in a cookie."""
    name, token_cookie = scope.lower(), cookie_name(scope, "advertising_token")
    if api_base is not None:
        raise InputError(
            "With server_only, the page does not contact an operator: omit api_base."
        )
    if cookie is None:
        return {"name": name, "value": {name: {"id": tokens.advertising_token}}}
    if cookie != token_cookie:
        raise InputError(
            f"With server_only, Prebid.js reads only the cookie {token_cookie}."
        )
    return {"name": name}


strip_tracebacks(globals())
