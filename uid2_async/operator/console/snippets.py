"""What to paste to use the sandbox: into a shell, a program or Docker."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit

from uid2_async.models import IdentityScope
from uid2_async.operator.console.guard import is_loopback
from uid2_async.operator.data import Credentials

__all__ = ["environment", "snippets"]

_CONTAINER_URL = "http://uid2-sandbox:8080"


def environment(
    scope: IdentityScope, url: str, credentials: Credentials, *, allow_http: bool
) -> dict[str, str]:
    """Name the variables that :meth:`UID2Client.from_env` reads, with their values."""
    settings = {
        f"{scope}_BASE_URL": url,
        f"{scope}_API_KEY": credentials.api_key,
        f"{scope}_SECRET_KEY": credentials.client_secret,
    }
    if allow_http:
        settings[f"{scope}_ALLOW_HTTP"] = "1"
    return settings


def _quoted(settings: Mapping[str, str]) -> list[str]:
    """Write settings as a shell takes them."""
    return [f"{name}={shlex.quote(value)}" for name, value in settings.items()]


def snippets(
    scope: IdentityScope, url: str, credentials: Credentials, *, built_in: bool
) -> dict[str, str]:
    """Write what to paste, by what it is for.

    Args:
        scope: UID2 or EUID.
        url: Where the sandbox is reached from here.
        credentials: Those of one role.
        built_in: Whether the world is the built-in one, so that a sandbox in a
            container has the same keys.
    """
    far = not is_loopback(urlsplit(url).hostname or "")
    settings = environment(scope, url, credentials, allow_http=far)
    found = {
        "Shell": "".join(f"export {one}\n" for one in _quoted(settings)),
        "Python": _python(scope, url, credentials, allow_http=far),
    }
    if built_in:
        found["Docker"] = _docker(scope, credentials)
    return found


def _python(
    scope: IdentityScope, url: str, credentials: Credentials, *, allow_http: bool
) -> str:
    """Write a program that makes a client."""
    euid = scope is IdentityScope.EUID
    lines = [
        f"from uid2_async import {'IdentityScope, ' if euid else ''}UID2Client",
        "",
        "client = UID2Client(",
        f"    {url!r},",
        f"    api_key={credentials.api_key!r},",
        f"    client_secret={credentials.client_secret!r},",
        *(["    scope=IdentityScope.EUID,"] if euid else []),
        *(["    allow_http=True,"] if allow_http else []),
        ")",
        "",
    ]
    return "\n".join(lines)


def _docker(scope: IdentityScope, credentials: Credentials) -> str:
    """Write how a sandbox and an application meet on a network of containers."""
    settings = environment(scope, _CONTAINER_URL, credentials, allow_http=True)
    option = " --scope euid" if scope is IdentityScope.EUID else ""
    start = f"uid2 sandbox --host 0.0.0.0 --port 8080 --console{option}"
    install = "pip install -q 'uid2-async[cli]'"
    lines = [
        "docker network create uid2",
        "docker run -d --name uid2-sandbox --network uid2 -p 127.0.0.1:8080:8080 \\",
        f'  python:3.13-slim sh -c "{install} && exec {start}"',
        "docker run --network uid2 \\",
        *(f"  -e {one} \\" for one in _quoted(settings)),
        "  YOUR_IMAGE",
        "",
    ]
    return "\n".join(lines)
