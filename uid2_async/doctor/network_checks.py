"""Checks of the way to an operator: pure functions of what the probes found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from uid2_async.doctor.findings import Check, Finding, failed, failure, ok, warning
from uid2_async.doctor.network_probes import (
    Connection,
    ConnectionFault,
    Handshake,
    HandshakeFault,
    Resolution,
)
from uid2_async.errors import (
    CallTimeoutError,
    ConnectError,
    ProtocolError,
    UID2Error,
)
from uid2_async.tls import CertificateFault
from uid2_async.transport import Reply

__all__ = [
    "check_connection",
    "check_dns",
    "check_latency",
    "check_operator",
    "check_tls",
    "is_operator",
]

_SLOW_SECONDS: Final = 1.0
_CERTIFICATE_DAYS: Final = 14
_DAY_SECONDS: Final = 86_400
_UNAUTHORIZED: Final = re.compile(rb'\{.*"status"\s*:\s*"unauthorized".*\}', re.DOTALL)


def check_dns(found: Resolution, proxies: Sequence[str]) -> Finding:
    """Judge whether the host has an address.

    Args:
        found: What DNS says.
        proxies: The variables that name an HTTP proxy, which is not used.
    """
    if not found.addresses:
        return failed(
            Check.DNS,
            f"The host {found.host} does not resolve.",
            _explain_proxy(proxies)
            or "Check its spelling in the base URL, and this machine's DNS and VPN.",
        )
    first, *others = found.addresses
    if first == found.host:
        return ok(Check.DNS, f"There is nothing to look up: {first} is an address.")
    more = f" and {len(others)} more" if others else ""
    return ok(Check.DNS, f"{found.host} is {first}{more}.")


def check_connection(found: Connection, proxies: Sequence[str]) -> Finding:
    """Judge whether the port can be reached.

    Args:
        found: What happened.
        proxies: The variables that name an HTTP proxy, which is not used.
    """
    if found.fault is None:
        ms = round(found.seconds * 1000)
        return ok(Check.CONNECTION, f"Port {found.port} answers within {ms} ms.")
    where = f"{found.address}, port {found.port}"
    hint = "Check firewall, security group and VPN on the way to the operator."
    if found.fault is ConnectionFault.REFUSED:
        hint = "Check the port in the base URL, and that the operator runs."
    return failed(
        Check.CONNECTION,
        f"{where} is {_FAULTS[found.fault]}.",
        _explain_proxy(proxies) or hint,
    )


def _explain_proxy(proxies: Sequence[str]) -> str:
    """Say that the proxy of the environment is not used, if there is one."""
    if not proxies:
        return ""
    return (
        f"{proxies[0]} is set, but is not read. If the operator is reached through "
        "this proxy, set UID2_PROXY (or EUID_PROXY) to its URL."
    )


_FAULTS: Final = {
    ConnectionFault.REFUSED: "closed: the connection was refused",
    ConnectionFault.TIMEOUT: "silent: connecting timed out",
    ConnectionFault.UNREACHABLE: "out of reach",
}


def check_tls(found: Handshake | None, now: float) -> Finding:
    """Judge TLS.

    Args:
        found: What happened; None where the base URL is plain http.
        now: The time in seconds since the Unix epoch.
    """
    check = Check.TLS
    if found is None:
        return ok(check, "Not used: the base URL is plain http.")
    if found.problem is not None:
        problem = found.problem
        hint = _CERTIFICATE_HINTS.get(problem.fault, problem.fault.value)
        return failed(check, f"No secure connection. {problem.message}", hint)
    if found.fault is not None:
        return failed(
            check,
            f"No secure connection: {found.fault.value}.",
            _TLS_HINTS[found.fault],
        )
    days = int((found.expires - now) // _DAY_SECONDS)
    message = f"{found.version}, the certificate holds for {days} days."
    if days < _CERTIFICATE_DAYS:
        return warning(check, message, "Renew the operator's certificate.")
    return ok(check, message)


_TLS_HINTS: Final = {
    HandshakeFault.NO_TLS: (
        "If this is a sandbox or a private operator without TLS, begin the base URL "
        "with http://; else check the port."
    ),
    HandshakeFault.CERTIFICATE: "Check the certificate of the operator.",
    HandshakeFault.TIMEOUT: "Check what lies between here and the operator.",
    HandshakeFault.OTHER: (
        "Check that the operator speaks TLS 1.2 or newer, and what lies between."
    ),
}

# Where the library's own hint is for a program, these are for the command line.
_CERTIFICATE_HINTS: Final = {
    CertificateFault.NONCONFORMING: (
        "Reissue the certificate that the message describes, which may be that of the "
        "CA. Python 3.13 and later enforce RFC 5280; until then, run this with Python "
        "3.12 or earlier."
    ),
}


def is_operator(reply: Reply) -> bool:
    """Tell whether *reply*, to a request without API key, is an operator's."""
    return reply.status == 401 and bool(_UNAUTHORIZED.search(reply.body))  # noqa: PLR2004 - an HTTP status reads best as its number


def check_operator(found: Reply | UID2Error, *, https: bool) -> Finding:
    """Judge whether it is an operator that answers, before any key is sent to it.

    Args:
        found: The reply to a request without API key, or why there is none.
        https: Whether it was sent over TLS.
    """
    check = Check.OPERATOR
    if isinstance(found, UID2Error):
        return _judge_silence(found, https=https)
    if is_operator(found):
        return ok(check, "An operator answers; it wants an API key, as it should.")
    if 300 <= found.status < 400:  # noqa: PLR2004 - an HTTP status reads best as its number
        return failed(
            check,
            f"HTTP {found.status}: it redirects to {_host_of(found)}.",
            "If that is the operator, make it the base URL; else a portal or proxy "
            "answers in its place.",
        )
    message, hint = _STATUSES.get(found.status, _ODD)
    return failed(check, f"HTTP {found.status}: {message}", hint)


_ODD: Final = (
    "this is not how an operator answers.",
    "Check the base URL.",
)
_NO_OPERATOR: Final = (
    "a web page or other service answers, not an operator.",
    "Check the base URL; a captive portal or proxy may answer in its place.",
)
_FAILING: Final = (
    "the operator, or what stands before it, is failing.",
    "Try again later; if it stays, tell who runs the operator.",
)
_STATUSES: Final = {
    200: _NO_OPERATOR,
    401: (
        "something before the operator asks for a login of its own.",
        "Check the gateway or proxy on the way.",
    ),
    403: (
        "something before the operator keeps this machine out.",
        "Have its address allowed by whoever runs the operator or its firewall.",
    ),
    404: (
        "there is no operator at this path.",
        "Leave the path out of the base URL, or check what the gateway forwards.",
    ),
    405: _NO_OPERATOR,
    429: (
        "the operator asks to slow down.",
        "Try again later, and send fewer requests at once.",
    ),
    500: _FAILING,
    502: _FAILING,
    503: _FAILING,
    504: _FAILING,
}


def _judge_silence(error: UID2Error, *, https: bool) -> Finding:
    """Say why there is no answer."""
    hung_up = isinstance(error, ConnectError) and error.disconnected
    garbled = isinstance(error, ProtocolError) and error.unparseable_http
    if not https and (hung_up or garbled):
        return failed(
            Check.OPERATOR,
            "What answers does not speak plain http.",
            "Begin the base URL with https://, or check the port.",
        )
    if isinstance(error, CallTimeoutError):
        return failed(
            Check.OPERATOR,
            "It accepts connections, but does not answer in time.",
            "Look at the operator's load and health; --timeout waits longer.",
        )
    return failure(Check.OPERATOR, error)


def _host_of(reply: Reply) -> str:
    """Name the place of a redirect, without path and query, which may hold anything."""
    try:
        parts = urlsplit(reply.headers.get("location", ""))
        host = parts.hostname or ""
    except ValueError:
        return "another path"
    if not host or not host.isprintable():
        return "another path"
    return f"{parts.scheme}://{host}" if parts.scheme in {"http", "https"} else host


def check_latency(seconds: Sequence[float]) -> Finding:
    """Judge how long the calls took, each over a kept connection."""
    if not seconds:
        return failed(Check.LATENCY, "No call was answered.", "See the checks before.")
    middle, longest = (round(one * 1000) for one in (median(seconds), max(seconds)))
    message = f"{middle} ms in the middle, {longest} ms at most ({len(seconds)} calls)."
    if median(seconds) > _SLOW_SECONDS:
        return warning(
            Check.LATENCY,
            message,
            "Use a nearer region, or look at the operator's load.",
        )
    return ok(Check.LATENCY, message)
