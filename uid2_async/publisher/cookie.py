"""Identity tokens as cookies: URI-encoded JSON, as the official web SDK keeps them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import system_clock
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope, OptedOut, ms_from_datetime
from uid2_async.publisher.session import OPT_OUT_KEPT, from_session, to_session
from uid2_async.publisher.systems import SYSTEMS

__all__ = ["cookie_name", "from_cookie", "to_cookie"]

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


strip_tracebacks(globals())
