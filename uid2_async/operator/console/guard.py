"""Who may use the console: a browser on its own page, and whoever has the token.

A page from elsewhere that someone has open could send requests to this machine, or
point its own name here (DNS rebinding). The first are told by what browsers say of
where a request comes from, the second by the Host header.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from uid2_async.operator.exchange import JSON, Request

__all__ = ["SECURITY_HEADERS", "Guard", "is_loopback"]

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What every answer of the console carries."""

_OWN_SITES: Final = frozenset({"same-origin", "none"})


def is_loopback(host: str) -> bool:
    """Tell whether *host* is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Refuses what comes neither from the console's own page nor with the token."""

    def __init__(
        self, host: str, *, allowed_hosts: Collection[str] = (), token: str = ""
    ) -> None:
        """Know the address that the operator listens at.

        Args:
            host: The address.
            allowed_hosts: Other names of this machine, such as that of a container.
            token: What requests under those names carry as ``Authorization: Bearer``;
                without a token there are no such requests.
        """
        self._host = host.lower()
        self._local = is_loopback(self._host)
        self._allowed_hosts = {one.lower() for one in allowed_hosts}
        self._token = token

    def refusal(self, request: Request, *, page: bool) -> str | None:
        """Say why *request* is refused, or return None.

        Args:
            request: The request.
            page: Whether it asks for the page itself, to which a link may lead from
                anywhere.
        """
        host = request.headers.get("Host", "")
        if _name_of(host) in self._allowed_hosts and not self._has_token(request):
            return "Send the token of the sandbox, as Authorization: Bearer TOKEN."
        if not self._is_own(host):
            return "The Host header names another machine than this one."
        return None if page else _stranger(request)

    def _is_own(self, host: str) -> bool:
        """Tell whether a Host header is this machine's; only names can be rebound."""
        name = _name_of(host)
        if is_loopback(name) or name in self._allowed_hosts:
            return True
        return not self._local and (name == self._host or _is_address(name))

    def _has_token(self, request: Request) -> bool:
        """Tell whether *request* carries the token."""
        sent = request.headers.get("Authorization", "").encode()
        due = f"Bearer {self._token}".encode()
        return bool(self._token) and hmac.compare_digest(sent, due)


def _name_of(host: str) -> str:
    """Take the name from a Host header; nothing if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _stranger(request: Request) -> str | None:
    """Say why a request is not from the console's own page, or return None."""
    if request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
        return "The request comes from another site."
    if request.method != "POST":
        return None
    own = f"http://{request.headers.get('Host', '')}"
    if request.headers.get("Origin", own) != own:
        return "The request comes from another origin."
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
    # No form of another page sends this type without asking first.
    return None if kind.lower() == JSON else f"Send JSON, as {JSON}."


def _is_address(name: str) -> bool:
    """Tell whether *name* is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
