"""Identity tokens or an opt-out in sessions, in cookies and in the scripts of a page.

The names are those of the official web SDK (uid2-web-integrations) and of Prebid.js
(modules uid2IdSystem and euidIdSystem).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote

import attrs
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


@attrs.frozen(kw_only=True)
class System:
    """The names of one system.

    Attributes:
        prebid_name: The Prebid module, and the prefix of its parameters.
        identity_cookie: Where the web SDK keeps the whole identity.
        token_cookie: Where Prebid finds the advertising token of a server.
    """

    prebid_name: str
    identity_cookie: str
    token_cookie: str


SYSTEMS: Final[Mapping[IdentityScope, System]] = {
    IdentityScope.UID2: System(
        prebid_name="uid2",
        identity_cookie="__uid_2",
        token_cookie="__uid2_advertising_token",  # noqa: S106 - a cookie's name
    ),
    IdentityScope.EUID: System(
        prebid_name="euid",
        identity_cookie="__euid",
        token_cookie="__euid_advertising_token",  # noqa: S106 - as above
    ),
}

# --- in a session ---------------------------------------------------------------------

OPT_OUT_KEPT: Final = timedelta(hours=72)
"""How long an opt-out is remembered: as long as the official web SDK does."""


def to_session(
    identity: IdentityTokens | OptedOut, *, now: datetime | None = None
) -> dict[str, Any]:
    """Make a JSON object for the user's session, with times in ms.

    It holds everything that a refresh needs: keep it on the server, or in a cookie that
    is encrypted and HttpOnly.

    Args:
        identity: The tokens; or an opt-out, which becomes the web SDK's marker
            ``{"status": "optout", ...}``, good for 72 hours.
        now: When the 72 hours begin, as an aware datetime; now by default.

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
    """Read what :func:`to_session` or an official SDK stored.

    Args:
        stored: The object, or its JSON; None or empty if there is none.
        now: The time at which an opt-out is checked, as an aware datetime; now by
            default.

    Returns:
        The tokens, of whatever age and with unknown keys kept; or OptedOut, and then do
        not ask for this person; or None where nothing is stored or an opt-out is 72
        hours old.

    Raises:
        InputError: If it is damaged; the message names the field, never its value.
    """
    if not stored:
        return None
    fields = stored if isinstance(stored, Mapping) else read_object(stored)
    # First, so that an opt-out counts whatever else is stored with it.
    if fields.get("status") != "optout":
        return IdentityTokens.from_dict(fields)
    ends = fields.get("refresh_expires")
    ended = type(ends) is int and ends <= ms_from_datetime(now or system_clock())
    return None if ended else OptedOut()


# --- in a cookie that scripts read ----------------------------------------------------

Content: TypeAlias = Literal["identity", "advertising_token"]

# What browsers keep at least, attributes included (RFC 6265, 6.1).
_MAX_BYTES: Final = 4096
# What encodeURIComponent of browsers keeps, in addition to letters and digits.
_UNQUOTED: Final = "-_.!~*'()"
# Prebid.js puts the name into a regular expression as it stands.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
_PATH: Final = re.compile(r"/[!-:<-~]*", re.ASCII)


def cookie_name(
    scope: IdentityScope = IdentityScope.UID2, content: Content = "identity"
) -> str:
    """Return the name under which scripts look for a cookie.

    Returns:
        ``__uid_2`` or ``__euid`` for the whole identity (web SDK);
        ``__uid2_advertising_token`` or ``__euid_advertising_token`` (Prebid.js).
    """
    system = SYSTEMS[scope]
    return system.identity_cookie if content == "identity" else system.token_cookie


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
    """Make the value of a ``Set-Cookie`` header.

    A browser replaces or deletes a cookie only by one of the same name, domain and
    path: call it with the same ones at login, refresh and logout.

    Args:
        identity: The tokens; an opt-out, which becomes the web SDK's marker for 72
            hours; or None at logout, which deletes the cookie.
        scope: Which system, for the name.
        content: ``identity`` for all of it as JSON, or ``advertising_token`` for what
            Prebid.js takes in server-only mode; an opt-out deletes the latter.
        name: Another name than that of :func:`cookie_name`.
        domain: For this domain and all subdomains; None for only the host.
        path: For this path and all under it.
        secure: Whether the cookie travels over https only; localhost counts as such.
        same_site: Whether other sites' pages may send it; ``None`` needs *secure*.
        http_only: Whether scripts cannot read it: right where the server alone uses
            it, wrong for the web SDK and Prebid.js.
        now: From when the cookie's life counts, as an aware datetime; now by default.

    Raises:
        InputError: If an option is wrong, or the cookie is over 4,096 bytes, which
            browsers may drop.
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
    """Refuse what would not stay inside of its attribute."""
    if not _NAME.fullmatch(name):
        raise InputError("A cookie's name must be letters, digits, _ and -.")
    if domain is not None and not _DOMAIN.fullmatch(domain):
        raise InputError("A cookie's domain must be a host name, such as example.com.")
    if not _PATH.fullmatch(path):
        raise InputError("A cookie's path must start with / and be URI-encoded.")


def _value(
    identity: IdentityTokens | OptedOut | None, content: Content, now: datetime
) -> tuple[str, datetime]:
    """Return the value, and until when it is valid."""
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
    """Read the value of a cookie that :func:`to_cookie` or the web SDK wrote.

    Anyone can send any cookie. Only the operator knows whether tokens are real, and
    unknown keys may hold anything.

    Args:
        value: As the browser sent it, or already decoded; None where it sent none.
        now: The time at which an opt-out is checked, as an aware datetime; now by
            default.

    Returns:
        As :func:`~uid2_async.publisher.from_session`.

    Raises:
        InputError: If it is not an identity. The message never shows the value.
    """
    if not isinstance(value, str) or value.startswith("{"):
        return from_session(value, now=now)
    try:
        text = unquote(value, errors="strict")
    except UnicodeDecodeError:
        text = "%"  # no JSON either, and nobody's data
    return from_session(text, now=now)


# --- in the scripts of a page ---------------------------------------------------------


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
