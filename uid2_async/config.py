"""Settings from environment variables; checks of base URLs, proxies and API keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from uid2_async._private import RedactedRepr, Secret, Unpicklable
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.protocol import base64

_BASE_URLS: Final = {
    IdentityScope.UID2: {
        "integ": "https://operator-integ.uidapi.com",
        "prod": "https://prod.uidapi.com",
        "global": "https://global.prod.uidapi.com",
        "usw": "https://usw.prod.uidapi.com",
        "au": "https://au.prod.uidapi.com",
        "jp": "https://jp.prod.uidapi.com",
        "sg": "https://sg.prod.uidapi.com",
    },
    IdentityScope.EUID: {
        "integ": "https://integ.euid.eu",
        "prod": "https://prod.euid.eu",
    },
}
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
# The endings of the variables of each setting, in order of precedence.
_VARIABLES: Final = {
    "base_url": ("BASE_URL", "ENV"),
    "api_key": ("API_KEY",),
    "client_secret": ("SECRET_KEY", "CLIENT_SECRET"),
    "allow_http": ("ALLOW_HTTP",),
    "proxy": ("PROXY",),
    "ca_file": ("CA_FILE",),
    "timeout": ("TIMEOUT",),
}
_REQUIRED: Final = frozenset({"base_url", "api_key", "client_secret"})


class Settings(RedactedRepr, Unpicklable, frozen=True, kw_only=True):
    """The options of a client that environment variables can set."""

    _repr_fields: ClassVar[tuple[str, ...]] = (
        *("base_url", "scope", "allow_http", "ca_file", "timeout"),
    )

    base_url: str
    api_key: str
    client_secret: str
    scope: IdentityScope
    allow_http: bool = False
    proxy: str | None = None
    ca_file: str | None = None
    timeout: float | None = None


def read_settings(scope: IdentityScope, environ: Mapping[str, str]) -> Settings:
    """Read the settings of *scope* from *environ*. See :func:`read_options`."""
    return Settings(scope=scope, **read_options(scope, environ))


def read_options(
    scope: IdentityScope, environ: Mapping[str, str], *, given: Collection[str] = ()
) -> dict[str, Any]:
    """Read the options of ``UID2Client`` from *environ*.

    For UID2, the variables are ``UID2_BASE_URL`` or ``UID2_ENV`` (prod, integ, global,
    usw, au, jp, sg), ``UID2_API_KEY``, ``UID2_SECRET_KEY`` (or ``UID2_CLIENT_SECRET``),
    and optionally ``UID2_ALLOW_HTTP``, ``UID2_PROXY``, ``UID2_CA_FILE`` and
    ``UID2_TIMEOUT`` (in seconds). For EUID, they start with ``EUID_``. Each except
    ``UID2_CA_FILE`` may also end in ``_FILE`` and name a file that contains the value,
    as with container secrets.

    The common proxy variables, such as ``HTTPS_PROXY``, are not read. Otherwise, API
    keys and personal data could go through a host that was not chosen for them.

    Args:
        scope: UID2 or EUID.
        environ: The environment variables.
        given: The options that are set elsewhere. Their variables are not read.

    Returns:
        The options that are set, by name.

    Raises:
        ConfigError: If a variable is missing or not valid, or a file cannot be read.
            The message names the variable.
    """
    names = [name for name in _VARIABLES if name not in given]
    found = {name: _read(scope, environ, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def list_faults(scope: IdentityScope, environ: Mapping[str, str]) -> list[ConfigError]:
    """Return all errors that :func:`read_settings` could raise, not only the first."""
    faults = []
    for name in _VARIABLES:
        try:
            _read(scope, environ, name)
        except ConfigError as error:
            faults.append(error)
    return faults


def find_sources(
    scope: IdentityScope, environ: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the variables that are set for each setting. The first one is used."""
    return {
        setting: [
            name
            for ending in endings
            for name in _spellings(f"{scope}_{ending}")
            if environ.get(name)
        ]
        for setting, endings in _VARIABLES.items()
    }


def _spellings(name: str) -> tuple[str, ...]:
    """Return a variable and the one that names a file with its value."""
    return (name,) if name.endswith("_FILE") else (name, f"{name}_FILE")


def _read(scope: IdentityScope, environ: Mapping[str, str], setting: str) -> Any:
    """Return the value of the first variable of *setting* that is set, or None."""
    for ending in _VARIABLES[setting]:
        name = f"{scope}_{ending}"
        value = _look_up(environ, name)
        if value:
            return _READERS[ending](name, value) if ending in _READERS else value
    if setting not in _REQUIRED:
        return None
    first, *others = (f"{scope}_{ending}" for ending in _VARIABLES[setting])
    message, hint = f"{first} is not set.", f"Set {first} or {first}_FILE."
    if setting == "base_url":
        message = f"Neither {first} nor {others[0]} is set."
        hint = (
            f"Set {others[0]} to integ or prod, or {first} to the URL of your operator."
        )
    raise ConfigError(message, hint=_other_scope(scope, environ) or hint)


def _other_scope(scope: IdentityScope, environ: Mapping[str, str]) -> str:
    """Return a hint if only the variables of the other system are set."""
    for other in IdentityScope:
        if other is not scope and environ.get(f"{other}_API_KEY"):
            return (
                f"{other}_API_KEY is set: did you mean IdentityScope.{other} or "
                f"--scope {other.lower()}?"
            )
    return ""


def _look_up(environ: Mapping[str, str], name: str) -> str | None:
    """Return *name*, or the content of the ``name_FILE`` file, or None if empty."""
    plain, *of_file = _spellings(name)
    if environ.get(plain) or not of_file:
        return environ.get(plain)
    path = environ.get(of_file[0])
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pass
    raise ConfigError(f"The file that {name}_FILE names cannot be read.")


def _environment(name: str, value: str) -> str:
    """Return the base URL that ``*_ENV`` selects."""
    known = _BASE_URLS[IdentityScope(name.partition("_")[0])]
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}.")
    return known[value]


def _flag(name: str, value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise ConfigError(f"{name} must be 1 or 0.")
    return value.lower() in _TRUE


def _ca_file(name: str, value: str) -> str:
    # Imported here, because only clients with a private CA need it.
    from uid2_async.tls import verifying_context  # noqa: PLC0415 - reason above

    return _checked(name, value, verifying_context)


def _checked(name: str, value: str, check: Callable[[str], object]) -> str:
    """Return *value*, or let the error of *check* begin with the variable's name."""
    try:
        check(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}", hint=error.hint) from None
    return value


def _proxy(name: str, value: str) -> str:
    """Check the URL of a proxy. It may contain a password and is not shown."""
    return _checked(name, value, parse_proxy)


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    raise ConfigError(
        f"{name} must be a number of seconds above zero.", hint=f"Example: {name}=30"
    )


_READERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "ENV": _environment,
    "ALLOW_HTTP": _flag,
    "PROXY": _proxy,
    "CA_FILE": _ca_file,
    "TIMEOUT": _seconds,
}

_PUBLISHED_DOMAINS: Final = {
    "uidapi.com": IdentityScope.UID2,
    "euid.eu": IdentityScope.EUID,
}
# The environments of API keys.
_ENVIRONMENTS: Final = {"L": "local", "T": "test", "I": "integration", "P": "prod"}
PUBLISHED: Final = {
    url.removeprefix("https://"): "I" if name == "integ" else "P"
    for base_urls in _BASE_URLS.values()
    for name, url in base_urls.items()
}
"""The environment of each host in docs/protocol.md 1.1, as in API keys."""

_KEY = re.compile(r"(?P<scope>UID2|EUID)-C-(?P<environment>[LTIP])-[0-9]+-")


def normalize_base_url(text: str, *, allow_http: bool = False) -> str:
    """Normalize a base URL.

    If the scheme is missing, https is assumed. A trailing slash or ``/v2`` is removed.

    Args:
        text: The URL as configured.
        allow_http: Allow plain http for hosts other than loopback.

    Returns:
        The scheme, host, port and path, without a trailing slash.

    Raises:
        ConfigError: If *text* is not an http(s) URL, has credentials, a query or a
            fragment, or is plain http where that is not allowed. The message contains
            no credentials.
    """
    parts = _split(text.strip(), "https")
    if parts is None:
        raise ConfigError("The base URL is not a URL.", hint="Example: https://host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("The base URL contains credentials. Remove them.")
    if parts.query or parts.fragment:
        raise ConfigError("The base URL has a query or a fragment. Remove it.")
    host = parts.hostname or ""
    _check_scheme(parts.scheme, host, allow_http=allow_http)
    path = parts.path.rstrip("/").removesuffix("/v2").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(text: str, default_scheme: str) -> SplitResult | None:
    """Parse a URL, or return None if it is not one."""
    if "://" not in text:
        text = f"{default_scheme}://{text}"
    try:
        parts = urlsplit(text)
        # Accessing the port validates it.
        usable = bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return None
    return parts if usable and " " not in text else None


def _check_scheme(scheme: str, host: str, *, allow_http: bool) -> None:
    """Raise unless the scheme is https, or http where that is allowed."""
    if scheme == "https":
        return
    if scheme != "http":
        raise ConfigError("The base URL must start with https://.")
    if published_scope(host) is not None:
        raise ConfigError("The published operators support only https.")
    if not (allow_http or is_loopback(host)):
        raise ConfigError(
            "Plain http would send the API key in the clear.",
            hint="Use https, or allow_http=True for a private operator you trust.",
        )


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def published_scope(host: str) -> IdentityScope | None:
    """Return the scope that a published *host* serves, or None for a private host."""
    for domain, scope in _PUBLISHED_DOMAINS.items():
        if host == domain or host.endswith(f".{domain}"):
            return scope
    return None


def sends_clear(base_url: str) -> bool:
    """Return whether *base_url* sends the API key unencrypted over a network."""
    parts = urlsplit(base_url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


class Proxy(NamedTuple):
    """An HTTP proxy.

    Attributes:
        url: The URL, without credentials.
        login: The value of the ``Proxy-Authorization`` header, or None.
    """

    url: str
    login: Secret[str] | None

    @property
    def is_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")


def parse_proxy(text: str) -> Proxy:
    """Parse the URL of an HTTP proxy. Errors do not quote it or its password.

    Args:
        text: ``http://`` or ``https://``, a host and a port, with ``user:password@``
            before the host if the proxy requires them. The scheme defaults to http.

    Raises:
        ConfigError: If it is not such a URL.
    """
    parts = _split(text.strip(), "http")
    if parts is None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError("The proxy is not a URL.", hint=_PROXY_HINT)
    if parts.scheme not in {"http", "https"}:
        raise ConfigError(
            "The proxy is neither http nor https.",
            hint="Use an HTTP proxy. SOCKS is not supported.",
        )
    host_and_port = parts.netloc.rpartition("@")[2]
    return Proxy(f"{parts.scheme}://{host_and_port}", _login(parts))


_PROXY_HINT: Final = (
    "Example: http://proxy.example.com:3128, or http://user:password@host:port with "
    "special characters percent-encoded, such as %40 for @."
)


def _login(parts: SplitResult) -> Secret[str] | None:
    """Encode the user name and password of a URL for HTTP Basic authentication."""
    if parts.username is None:
        return None
    user, password = unquote(parts.username), unquote(parts.password or "")
    if ":" in user:
        raise ConfigError("The proxy's user name has a colon.", hint=_PROXY_HINT)
    return Secret(f"Basic {base64.encode_text(f'{user}:{password}'.encode())}")


def check_api_key(
    api_key: str, scope: IdentityScope, base_urls: Sequence[str] = ()
) -> None:
    """Raise if an API key cannot be valid for *scope* or a published host.

    Keys in an unknown format pass, because older keys are arbitrary strings
    (docs/protocol.md 1.2).

    Raises:
        ConfigError: If it is empty, not printable ASCII, or belongs to another system
            or environment. The message does not contain the key.
    """
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise ConfigError("The API key is empty or not printable ASCII.")
    if " " in api_key:
        raise ConfigError("The API key contains a space.")
    for base_url in base_urls:
        served = published_scope(urlsplit(base_url).hostname or "")
        if served not in (None, scope):
            raise ConfigError(f"The base URL serves {served}, but scope is {scope}.")
    found = _KEY.match(api_key)
    if found is None:
        return
    if found["scope"] != scope:
        raise ConfigError(f"The API key belongs to {found['scope']}, not to {scope}.")
    for base_url in base_urls:
        _check_environment(found["environment"], urlsplit(base_url).hostname or "")


def _check_environment(environment: str, host: str) -> None:
    """Raise if a key of one environment is used with a published host of another."""
    served = PUBLISHED.get(host, environment)
    if served != environment:
        raise ConfigError(
            f"The API key belongs to the {_ENVIRONMENTS[environment]} environment, but "
            f"the base URL serves {_ENVIRONMENTS[served]}.",
        )
