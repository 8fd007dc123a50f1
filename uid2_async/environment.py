"""Settings from environment variables, with the names that UID2 users already have."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.regions import parse_proxy
from uid2_async.secret import Unpicklable

__all__ = [
    "Settings",
    "find_sources",
    "list_faults",
    "read_options",
    "read_settings",
]

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
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


@attrs.frozen(kw_only=True)
class Settings(Unpicklable):
    """What a client needs to reach an operator.

    Attributes:
        base_url: One base URL.
        api_key: The API key.
        client_secret: Its client secret, base64.
        scope: Which system.
        allow_http: Whether plain http is allowed beyond loopback hosts.
        proxy: The URL of an HTTP proxy, or None.
        ca_file: A PEM file with the CAs to trust, or None for the system's.
        timeout: Seconds that a call may take in total, or None for the default.
    """

    base_url: str
    api_key: str = attrs.field(repr=False)
    client_secret: str = attrs.field(repr=False)
    scope: IdentityScope
    allow_http: bool = False
    proxy: str | None = attrs.field(default=None, repr=False)
    ca_file: str | None = None
    timeout: float | None = None


def read_settings(scope: IdentityScope, environ: Mapping[str, str]) -> Settings:
    """Read the settings of *scope* from *environ*; see :func:`read_options`."""
    return Settings(scope=scope, **read_options(scope, environ))


def read_options(
    scope: IdentityScope, environ: Mapping[str, str], *, given: Collection[str] = ()
) -> dict[str, Any]:
    """Read options of ``UID2Client`` from *environ*.

    For UID2: ``UID2_BASE_URL`` or ``UID2_ENV`` (prod, integ, global, usw, au, jp, sg),
    ``UID2_API_KEY``, ``UID2_SECRET_KEY`` (or ``UID2_CLIENT_SECRET``), and optionally
    ``UID2_ALLOW_HTTP``, ``UID2_PROXY``, ``UID2_CA_FILE`` and ``UID2_TIMEOUT`` (in
    seconds). For EUID the same with ``EUID_``. Each but ``UID2_CA_FILE`` may end in
    ``_FILE`` and name a file that holds the value, as container secrets do.

    The proxy variables that many programs share (``HTTPS_PROXY`` and the like) are not
    read: where one happens to be set, API keys and people would go to a host that
    nobody chose for them.

    Args:
        scope: UID2 or EUID.
        environ: The variables.
        given: The options that are set otherwise; their variables are not read.

    Returns:
        The options that are set, by name.

    Raises:
        ConfigError: If one is missing or wrong, or a file cannot be read. Names the
            variable.
    """
    readers = _readers(scope, environ).items()
    found = {name: read() for name, read in readers if name not in given}
    return {name: value for name, value in found.items() if value is not None}


def list_faults(scope: IdentityScope, environ: Mapping[str, str]) -> list[ConfigError]:
    """List everything for which :func:`read_settings` would raise, not the first."""
    faults = []
    for read in _readers(scope, environ).values():
        try:
            read()
        except ConfigError as error:
            faults.append(error)
    return faults


def find_sources(
    scope: IdentityScope, environ: Mapping[str, str]
) -> dict[str, list[str]]:
    """Name the variables that are set for each setting; the first one counts."""
    return {
        setting: [
            name for plain in names for name in _spellings(plain) if environ.get(name)
        ]
        for setting, names in _names(scope).items()
    }


def _spellings(name: str) -> tuple[str, ...]:
    """Return a variable and the one that names a file with its value."""
    return (name,) if name.endswith("_FILE") else (name, f"{name}_FILE")


def _names(scope: IdentityScope) -> dict[str, tuple[str, ...]]:
    """Name the variables of each setting, in the order in which they count."""
    return {
        "base_url": (f"{scope}_BASE_URL", f"{scope}_ENV"),
        "api_key": (f"{scope}_API_KEY",),
        "client_secret": (f"{scope}_SECRET_KEY", f"{scope}_CLIENT_SECRET"),
        "allow_http": (f"{scope}_ALLOW_HTTP",),
        "proxy": (f"{scope}_PROXY",),
        "ca_file": (f"{scope}_CA_FILE",),
        "timeout": (f"{scope}_TIMEOUT",),
    }


def _readers(
    scope: IdentityScope, environ: Mapping[str, str]
) -> dict[str, Callable[[], Any]]:
    """Give what reads each field of the settings."""
    names = _names(scope)
    return {
        "base_url": lambda: _base_url(scope, environ),
        "api_key": lambda: _require(scope, environ, *names["api_key"]),
        "client_secret": lambda: _require(scope, environ, *names["client_secret"]),
        "allow_http": lambda: _flag(environ, *names["allow_http"]),
        "proxy": lambda: _proxy(environ, *names["proxy"]),
        "ca_file": lambda: _ca_file(environ, *names["ca_file"]),
        "timeout": lambda: _seconds(environ, *names["timeout"]),
    }


def _base_url(scope: IdentityScope, environ: Mapping[str, str]) -> str:
    """Take the base URL itself, or the one that ``*_ENV`` stands for."""
    base_url = _look_up(environ, f"{scope}_BASE_URL")
    if base_url:
        return base_url
    name = _look_up(environ, f"{scope}_ENV")
    if not name:
        raise ConfigError(
            f"Neither {scope}_BASE_URL nor {scope}_ENV is set.",
            hint=_other_scope(scope, environ)
            or f"Set {scope}_ENV=integ or prod, or the operator's base URL.",
        )
    known = _BASE_URLS[scope]
    if name not in known:
        raise ConfigError(f"{scope}_ENV must be one of {', '.join(known)}.")
    return known[name]


def _other_scope(scope: IdentityScope, environ: Mapping[str, str]) -> str:
    """Make the hint for whoever has set the variables of the other system alone."""
    for other in IdentityScope:
        if other is not scope and environ.get(f"{other}_API_KEY"):
            return (
                f"{other}_API_KEY is set: was IdentityScope.{other} or --scope "
                f"{other.lower()} meant?"
            )
    return ""


def _require(scope: IdentityScope, environ: Mapping[str, str], *names: str) -> str:
    """Take the first of *names* that is set."""
    for name in names:
        value = _look_up(environ, name)
        if value:
            return value
    raise ConfigError(
        f"{names[0]} is not set.",
        hint=_other_scope(scope, environ) or f"Set {names[0]} or {names[0]}_FILE.",
    )


def _look_up(environ: Mapping[str, str], name: str) -> str | None:
    """Take *name*, or what the ``name_FILE`` file holds; empty is not set."""
    if environ.get(name):
        return environ[name]
    path = environ.get(f"{name}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pass
    raise ConfigError(f"The file that {name}_FILE names cannot be read.")


def _flag(environ: Mapping[str, str], name: str) -> bool:
    """Read a switch."""
    value = (_look_up(environ, name) or "").lower()
    if value not in _TRUE | _FALSE:
        raise ConfigError(f"{name} must be 1 or 0.")
    return value in _TRUE


def _proxy(environ: Mapping[str, str], name: str) -> str | None:
    """Read the URL of a proxy; it may hold a password and is not shown."""
    value = _look_up(environ, name)
    if not value:
        return None
    try:
        parse_proxy(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}", hint=error.hint) from None
    return value


def _ca_file(environ: Mapping[str, str], name: str) -> str | None:
    """Read the name of a file of certificates, which must be usable."""
    value = environ.get(name)
    if not value:
        return None
    # Only those with a private CA pay for it.
    from uid2_async.tls import verifying_context  # noqa: PLC0415 - reason above

    try:
        verifying_context(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}", hint=error.hint) from None
    return value


def _seconds(environ: Mapping[str, str], name: str) -> float | None:
    """Read a duration."""
    value = _look_up(environ, name)
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    raise ConfigError(
        f"{name} must be a number of seconds above zero.", hint=f"Example: {name}=30"
    )
