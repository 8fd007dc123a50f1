"""Base URLs: what is accepted, what is published, and which one is next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.protocol import base64
from uid2_async.secret import Secret

__all__ = [
    "PUBLISHED",
    "Proxy",
    "Regions",
    "check_api_key",
    "normalize_base_url",
    "parse_proxy",
    "sends_clear",
]


class PublishedHost(NamedTuple):
    """One of the hosts of docs/protocol.md 1.1.

    Attributes:
        scope: Which system it serves.
        environment: ``I`` (integration) or ``P`` (production), as in API keys.
    """

    scope: IdentityScope
    environment: str


_UID2_PROD: Final = PublishedHost(IdentityScope.UID2, "P")
PUBLISHED: Final = {
    "operator-integ.uidapi.com": PublishedHost(IdentityScope.UID2, "I"),
    "prod.uidapi.com": _UID2_PROD,
    "global.prod.uidapi.com": _UID2_PROD,
    "usw.prod.uidapi.com": _UID2_PROD,
    "au.prod.uidapi.com": _UID2_PROD,
    "jp.prod.uidapi.com": _UID2_PROD,
    "sg.prod.uidapi.com": _UID2_PROD,
    "integ.euid.eu": PublishedHost(IdentityScope.EUID, "I"),
    "prod.euid.eu": PublishedHost(IdentityScope.EUID, "P"),
}
_PUBLISHED_DOMAINS: Final = {
    "uidapi.com": IdentityScope.UID2,
    "euid.eu": IdentityScope.EUID,
}
_KEY = re.compile(r"(?P<scope>UID2|EUID)-C-(?P<environment>[LTIP])-[0-9]+-")
_ENVIRONMENTS: Final = {"L": "local", "T": "test", "I": "integration", "P": "prod"}


def normalize_base_url(text: str, *, allow_http: bool = False) -> str:
    """Bring a base URL into the one form in which it is used.

    A scheme may be left out (https is assumed), a trailing slash or ``/v2`` is dropped.

    Args:
        text: The URL as configured.
        allow_http: Whether plain http is accepted beyond loopback hosts.

    Returns:
        Scheme, host, port and path, without trailing slash.

    Raises:
        ConfigError: If it has credentials, a query or a fragment, is no http(s) URL, or
            is plain http where that is not allowed. The message shows no credentials.
    """
    parts = _split(text.strip())
    if parts.username is not None or parts.password is not None:
        raise ConfigError("The base URL holds credentials: leave them out.")
    if parts.query or parts.fragment:
        raise ConfigError("The base URL has a query or a fragment: leave it out.")
    host = parts.hostname or ""
    _check_scheme(parts.scheme, host, allow_http=allow_http)
    path = parts.path.rstrip("/").removesuffix("/v2").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(text: str) -> SplitResult:
    """Parse *text*, adding https where there is no scheme."""
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        # Reading the port is what checks it.
        usable = bool(parts.hostname) and parts.port != 0 and text.isprintable()
        if usable and " " not in text:
            return parts
    except ValueError:
        pass
    raise ConfigError("The base URL is not a URL.", hint="Example: https://host")


def _check_scheme(scheme: str, host: str, *, allow_http: bool) -> None:
    """Refuse what is neither https nor an http that is allowed."""
    if scheme == "https":
        return
    if scheme != "http":
        raise ConfigError("The base URL must start with https://.")
    if published_scope(host) is not None:
        raise ConfigError("The published operators are reached by https alone.")
    if not (allow_http or is_loopback(host)):
        raise ConfigError(
            "Plain http would send the API key in clear.",
            hint="Use https, or allow_http=True for a private operator you trust.",
        )


def is_loopback(host: str) -> bool:
    """Tell whether *host* is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def published_scope(host: str) -> IdentityScope | None:
    """Say which system a published *host* serves, or None for a private one."""
    for domain, scope in _PUBLISHED_DOMAINS.items():
        if host == domain or host.endswith(f".{domain}"):
            return scope
    return None


def sends_clear(base_url: str) -> bool:
    """Tell whether *base_url* sends the API key in clear over a network."""
    parts = urlsplit(base_url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


class Proxy(NamedTuple):
    """An HTTP proxy.

    Attributes:
        url: Its URL, without credentials.
        login: What it is shown as ``Proxy-Authorization``, or None.
    """

    url: str
    login: Secret[str] | None

    @property
    def is_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")


def parse_proxy(text: str) -> Proxy:
    """Parse the URL of an HTTP proxy. No message shows it: it may hold a password.

    Args:
        text: ``http://`` or ``https://``, a host and a port, with ``user:password@``
            before the host where the proxy needs them. Without scheme it is http.

    Raises:
        ConfigError: If it is not such a URL.
    """
    parts = _split_proxy(text.strip())
    if parts is None:
        raise ConfigError("The proxy is not a URL.", hint=_PROXY_HINT)
    if parts.scheme not in {"http", "https"}:
        raise ConfigError(
            "The proxy is neither http nor https.",
            hint="Use an HTTP proxy; SOCKS is not supported.",
        )
    place = parts.netloc.rpartition("@")[2]
    return Proxy(f"{parts.scheme}://{place}", _login(parts))


def _split_proxy(text: str) -> SplitResult | None:
    """Return the parts of a proxy's URL, or None if it is not such a URL."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        usable = bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return None
    more = parts.path.strip("/") or parts.query or parts.fragment
    return parts if usable and " " not in text and not more else None


_PROXY_HINT: Final = (
    "Example: http://proxy.example.com:3128, or http://user:password@host:port with "
    "special characters percent-encoded, such as %40 for @."
)


def _login(parts: SplitResult) -> Secret[str] | None:
    """Encode user name and password of a URL as HTTP's Basic scheme does."""
    if parts.username is None:
        return None
    user, password = unquote(parts.username), unquote(parts.password or "")
    if ":" in user:
        raise ConfigError("The proxy's user name has a colon.", hint=_PROXY_HINT)
    return Secret(f"Basic {base64.encode_text(f'{user}:{password}'.encode())}")


def check_api_key(
    api_key: str, scope: IdentityScope, base_urls: Sequence[str] = ()
) -> None:
    """Refuse an API key that cannot be right for *scope* or a published host.

    Keys of an unknown shape pass: older ones are arbitrary (docs/protocol.md 1.2).

    Raises:
        ConfigError: If it is empty, not printable ASCII, or of another system or
            environment. The key is not shown.
    """
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise ConfigError("The API key is empty or not printable ASCII.")
    if " " in api_key:
        raise ConfigError("The API key holds a space.")
    for base_url in base_urls:
        served = published_scope(urlsplit(base_url).hostname or "")
        if served not in (None, scope):
            raise ConfigError(f"The base URL serves {served}, but scope is {scope}.")
    found = _KEY.match(api_key)
    if found is None:
        return
    if found["scope"] != scope:
        raise ConfigError(f"The API key is one of {found['scope']}, not of {scope}.")
    for base_url in base_urls:
        _check_environment(found["environment"], urlsplit(base_url).hostname or "")


def _check_environment(environment: str, host: str) -> None:
    """Refuse a key of one environment at the published host of another."""
    published = PUBLISHED.get(host)
    if published is not None and published.environment != environment:
        raise ConfigError(
            f"The API key is one of the {_ENVIRONMENTS[environment]} environment, the "
            f"base URL serves {_ENVIRONMENTS[published.environment]}.",
        )


class Regions:
    """Which of several base URLs serves the next attempt.

    The first that is not cooling down; if all are, the one that recovers first. Times
    are the event loop's, in seconds.
    """

    def __init__(self, base_urls: Sequence[str], *, cooldown: float) -> None:
        """Prefer *base_urls* in their order; leave a failed one for *cooldown* s."""
        if not base_urls:
            raise ConfigError("There is no base URL.")
        self.base_urls: tuple[str, ...] = tuple(base_urls)
        self._cooldown = cooldown
        self._cool_until = dict.fromkeys(self.base_urls, 0.0)

    def choose(self, now: float) -> str:
        """Choose the base URL for an attempt at *now*."""
        for base_url, until in self._cool_until.items():
            if until <= now:
                return base_url
        return min(self._cool_until, key=self._cool_until.__getitem__)

    def failed(self, base_url: str, now: float) -> None:
        """Let *base_url*, which failed at *now*, cool down."""
        self._cool_until[base_url] = now + self._cooldown

    def __repr__(self) -> str:
        """Show the base URLs in their order."""
        return f"Regions({', '.join(self.base_urls)})"
