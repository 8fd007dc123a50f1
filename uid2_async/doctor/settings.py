"""Checks of the settings, for which nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from uid2_async.doctor.findings import CheckId, Finding, failed, ok, warning
from uid2_async.environment import find_sources, list_faults
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import KEY_BYTES
from uid2_async.protocol.hash_spelling import HashSpelling, diagnose_hash
from uid2_async.protocol.inspection import ValueKind, inspect_value
from uid2_async.regions import (
    PUBLISHED,
    check_api_key,
    normalize_base_url,
    published_scope,
    sends_clear,
)

# What samples and tests of the official SDKs call these settings.
_OTHER_NAMES: Final = {
    "base_url": ("UID_SERVER_BASE_URL", "UID_CLIENT_BASE_URL", "OPERATOR_URL"),
    "api_key": ("UID_API_KEY", "CLIENT_KEY"),
    "client_secret": ("UID_CLIENT_SECRET", "CLIENT_SECRET"),
}


_PLACES: Final = {
    "prod.uidapi.com": "Ohio",
    "global.prod.uidapi.com": "the nearest region",
    "usw.prod.uidapi.com": "Oregon",
    "au.prod.uidapi.com": "Sydney",
    "jp.prod.uidapi.com": "Tokyo",
    "sg.prod.uidapi.com": "Singapore",
}


_ENVIRONMENTS: Final = {"I": "integration", "P": "production"}


_KEY_BEGINNINGS: Final = ("UID2-", "EUID-")


def check_settings(scope: IdentityScope, environ: Mapping[str, str]) -> Finding:
    """Judge which variables are set; their values are not shown."""
    sources = find_sources(scope, environ)
    faults = list_faults(scope, environ)
    if faults:
        return failed(
            CheckId.SETTINGS,
            " ".join(fault.message for fault in faults),
            _other_settings(scope, environ) or faults[0].hint,
        )
    used = [names[0] for names in sources.values() if names]
    idle = [name for names in sources.values() for name in names[1:]]
    message = f"Taken from {', '.join(used)}."
    if idle:
        return warning(
            CheckId.SETTINGS,
            f"{message} Set, but without effect: {', '.join(idle)}.",
            "Unset what is not meant.",
        )
    return ok(CheckId.SETTINGS, message)


def _other_settings(scope: IdentityScope, environ: Mapping[str, str]) -> str:
    """Find settings under other names than those that count."""
    for other in IdentityScope:
        sources = find_sources(other, environ)
        if other is not scope and sources["api_key"]:
            return f"Variables of {other} are set: did you mean --scope {other}?"
    ours = find_sources(scope, environ)
    for setting, names in _OTHER_NAMES.items():
        for name in names:
            if environ.get(name) and not ours[setting]:
                wanted = f"{scope}_{'SECRET_KEY' if 'secret' in setting else setting}"
                return f"{name} is set, which does not count: name it {wanted.upper()}."
    return ""


def check_base_url(
    scope: IdentityScope, base_url: str, *, allow_http: bool = False
) -> Finding:
    """Judge a base URL by itself: scheme, host, scope and path."""
    check = CheckId.BASE_URL
    try:
        url = normalize_base_url(base_url, allow_http=allow_http)
    except ConfigError as error:
        hint = error.hint.replace("allow_http=True", f"{scope}_ALLOW_HTTP=1")
        return failed(check, error.message, hint)
    parts = urlsplit(url)
    host = parts.hostname or ""
    served = published_scope(host)
    if served not in {None, scope}:
        return failed(
            check,
            f"{url} serves {served}, but the scope is {scope}.",
            f"Use the base URL of {scope}, or --scope {served}.",
        )
    if {"v1", "v2", "v3"} & set(parts.path.split("/")):
        return failed(
            check,
            f"{url} names an endpoint or a version of the API.",
            "End the base URL before /v2 or /v3.",
        )
    if served is not None and (host not in PUBLISHED or parts.path or parts.port):
        return warning(
            check,
            f"{url} is none of the published base URLs.",
            f"Look for a slip of the pen, or set {scope}_ENV instead.",
        )
    if sends_clear(url):
        return warning(
            check,
            f"{url} is plain http: the API key travels in clear.",
            "Use https unless the network is yours alone.",
        )
    return ok(check, f"{url}, {_describe_host(scope, host)}.")


def _describe_host(scope: IdentityScope, host: str) -> str:
    """Say which operator is at *host*."""
    published = PUBLISHED.get(host)
    if published is None:
        return f"a private {scope} operator or a sandbox"
    place = f", {_PLACES[host]}" if host in _PLACES else ""
    return f"{scope} {_ENVIRONMENTS[published.environment]}{place}"


def check_api_key_form(
    scope: IdentityScope, api_key: str, base_urls: Sequence[str]
) -> Finding:
    """Judge an API key by its form, without showing it.

    Args:
        scope: The scope that it should be of.
        api_key: The API key.
        base_urls: Where it is to be used.
    """
    check = CheckId.API_KEY_FORM
    fault = _find_key_fault(scope, api_key, base_urls)
    if fault:
        return failed(check, fault, _UNQUOTE if _is_quoted(api_key) else _KEY_HINT)
    found = inspect_value(api_key, now_ms=0)
    if found.site_id is not None:
        where = f"site {found.site_id}, environment {found.key_environment}"
        return ok(check, f"A key of {scope}: {where}.")
    if ValueKind.CLIENT_SECRET in found.kinds:
        return warning(check, "The API key looks like a client secret.", _SWAPPED)
    if ValueKind.API_KEY in found.kinds:
        return warning(
            check, "The API key begins like one, but is not of the usual form.", _WHOLE
        )
    return ok(check, "Not of the documented form, as older keys are not.")


def _find_key_fault(
    scope: IdentityScope, api_key: str, base_urls: Sequence[str]
) -> str:
    """Say why an API key cannot be right, or nothing."""
    if _is_quoted(api_key):
        return "The API key is in quotes."
    if api_key.startswith(f"{scope}-O-"):
        return "The API key is one of an operator, not of a client."
    try:
        check_api_key(api_key, scope, base_urls)
    except ConfigError as error:
        return error.message
    return ""


_UNQUOTE: Final = "Remove the quotes: some tools keep them as part of the value."


_SWAPPED: Final = "Check whether API key and client secret have changed places."


_WHOLE: Final = "Check that all of it was copied."


_KEY_HINT: Final = "Use the key that the UID2 portal shows for this environment."


def check_client_secret_form(client_secret: str) -> Finding:
    """Judge a client secret by its form, without showing it."""
    check = CheckId.CLIENT_SECRET_FORM
    data = base64.decode(client_secret)
    if data is not None and len(data) == KEY_BYTES:
        return ok(check, "Base64 of 32 bytes.")
    if _is_quoted(client_secret):
        return failed(check, "The client secret is in quotes.", _UNQUOTE)
    if client_secret.startswith(_KEY_BEGINNINGS):
        return failed(check, "The client secret looks like an API key.", _SWAPPED)
    spelling = diagnose_hash(client_secret)
    if spelling in {HashSpelling.NOT_HASHED, HashSpelling.UNKNOWN}:
        size = "no base64" if data is None else f"base64 of {len(data)} bytes"
        return failed(
            check,
            f"The client secret has {len(client_secret)} characters and is {size}; it "
            "must be base64 of 32 bytes, 44 characters.",
            _WHOLE,
        )
    return failed(
        check,
        f"The client secret is not plain base64 of 32 bytes: {spelling}.",
        "Use the secret as the UID2 portal shows it.",
    )


def _is_quoted(text: str) -> bool:
    """Tell whether quotes are part of a value."""
    return text[:1] in {'"', "'"} or text[-1:] in {'"', "'"}
