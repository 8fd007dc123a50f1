"""Checks from a host name to an operator's first reply: DNS, TCP, TLS and HTTP.

A probe returns what it found, good or bad, and never raises. A check is a pure function
of the result of a probe.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import attrs

from uid2_async._call import CLIENT_VERSION
from uid2_async.doctor.findings import (
    CheckId,
    Finding,
    failed,
    failed_call,
    ok,
    warning,
)
from uid2_async.doctor.probe import ProbeEndpoint
from uid2_async.errors import CallTimeoutError, ConnectError, ProtocolError, UID2Error
from uid2_async.tls import (
    CertificateFault,
    CertificateProblem,
    explain_certificate_error,
)
from uid2_async.transport import Reply, Request, SessionPool


class ConnectionFault(Enum):
    """Why a connection failed."""

    REFUSED = "closed: the connection was refused"
    TIMEOUT = "silent: connecting timed out"
    UNREACHABLE = "unreachable"


@attrs.frozen(kw_only=True)
class ConnectResult:
    """The result of connecting to a port.

    Attributes:
        address: The IP address that was tried last.
        port: The port.
        seconds: The duration in seconds.
        fault: Why the connection failed, or None.
    """

    address: str
    port: int
    seconds: float = 0.0
    fault: ConnectionFault | None = None


class HandshakeFault(Enum):
    """Why a TLS handshake failed."""

    NO_TLS = "the server does not speak TLS"
    CERTIFICATE = "the certificate was rejected"
    TIMEOUT = "the handshake took too long"
    OTHER = "the handshake failed"


@attrs.frozen(kw_only=True)
class Handshake:
    """The result of a TLS handshake.

    Attributes:
        version: The protocol version, such as ``TLSv1.3``.
        expires: The expiry of the certificate, in seconds since the Unix epoch.
        fault: Why the handshake failed, or None.
        problem: Why the certificate was rejected, or None.
    """

    version: str = ""
    expires: float = 0.0
    fault: HandshakeFault | None = None
    problem: CertificateProblem | None = None


async def resolve(host: str, port: int, *, timeout: float) -> tuple[str, ...]:
    """Return the IP addresses of *host*, or nothing if it does not resolve."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, UnicodeError, TimeoutError):
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(one[4][0]) for one in found))
    return ()


async def tcp_connect(
    addresses: tuple[str, ...], port: int, *, timeout: float
) -> ConnectResult:
    """Connect to the first of *addresses* that answers."""
    found = ConnectResult(address="", port=port, fault=ConnectionFault.UNREACHABLE)
    for address in addresses:
        found = await _tcp_connect(address, port, timeout)
        if found.fault is None:
            break
    return found


async def _tcp_connect(address: str, port: int, timeout: float) -> ConnectResult:
    """Connect to one address, and close the connection."""
    now = asyncio.get_running_loop().time
    started = now()
    fault = None
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(address, port)
        await _close(writer)
    except TimeoutError:
        fault = ConnectionFault.TIMEOUT
    except ConnectionRefusedError:
        fault = ConnectionFault.REFUSED
    except OSError:
        fault = ConnectionFault.UNREACHABLE
    return ConnectResult(
        address=address, port=port, seconds=now() - started, fault=fault
    )


async def tls_handshake(
    address: str, port: int, host: str, context: ssl.SSLContext, *, timeout: float
) -> Handshake:
    """Perform a TLS handshake with *host* at *address*, and close the connection."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host
            )
    except ssl.SSLCertVerificationError as error:
        return Handshake(
            fault=HandshakeFault.CERTIFICATE, problem=explain_certificate_error(error)
        )
    except ssl.SSLError as error:
        no_tls = error.reason in _NO_TLS_REASONS
        return Handshake(
            fault=HandshakeFault.NO_TLS if no_tls else HandshakeFault.OTHER
        )
    except TimeoutError:
        return Handshake(fault=HandshakeFault.TIMEOUT)
    except OSError:
        return Handshake(fault=HandshakeFault.OTHER)
    secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = secured.getpeercert() or {}
    handshake = Handshake(
        version=secured.version() or "",
        expires=ssl.cert_time_to_seconds(str(certificate["notAfter"])),
    )
    await _close(writer)
    return handshake


_NO_TLS_REASONS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and ignore errors."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


async def request_without_key(
    pool: SessionPool, *, timeout: float
) -> Reply | UID2Error:
    """Send a request without an API key to an endpoint that requires one.

    Returns:
        The reply, or the error if there was none.
    """
    request = Request(
        path=ProbeEndpoint.GENERATE,
        headers={
            "Accept-Encoding": "identity",
            "Content-Type": "text/plain",
            "User-Agent": CLIENT_VERSION,
        },
        body=b"",
        timeout=timeout,
    )
    try:
        return await pool.send(request)
    except UID2Error as error:
        return error


def date_offset(reply: Reply | UID2Error, now: datetime) -> float | None:
    """Return by how many seconds the ``Date`` of *reply* is ahead of *now*, or None.

    Operators send no ``Date`` header, but a proxy in front of them may.
    """
    if isinstance(reply, UID2Error) or "date" not in reply.headers:
        return None
    try:
        date = parsedate_to_datetime(reply.headers["date"])
        return (date - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


_SLOW_SECONDS: Final = 1.0
_CERTIFICATE_DAYS: Final = 14
_DAY_SECONDS: Final = 86_400

_UNAUTHORIZED_BODY: Final = re.compile(
    rb'\{.*"status"\s*:\s*"unauthorized".*\}', re.DOTALL
)


def check_dns(host: str, addresses: Sequence[str], proxies: Sequence[str]) -> Finding:
    """Check whether *host* resolves.

    *proxies* are environment variables that name an HTTP proxy, and are not used.
    """
    if not addresses:
        return failed(
            CheckId.DNS,
            f"The host {host} does not resolve.",
            _explain_proxy(proxies)
            or "Check its spelling in the base URL, and this machine's DNS and VPN.",
        )
    first, *others = addresses
    if first == host:
        return ok(CheckId.DNS, f"Not needed: {first} is an IP address.")
    more = f" and {len(others)} more" if others else ""
    return ok(CheckId.DNS, f"{host} is {first}{more}.")


def check_connection(found: ConnectResult, proxies: Sequence[str]) -> Finding:
    """Check whether the port can be reached. See :func:`check_dns`."""
    if found.fault is None:
        ms = round(found.seconds * 1000)
        return ok(CheckId.CONNECTION, f"Port {found.port} answers within {ms} ms.")
    where = f"{found.address}, port {found.port}"
    hint = "Check the firewall, security group and VPN on the way to the operator."
    if found.fault is ConnectionFault.REFUSED:
        hint = "Check the port in the base URL, and that the operator is running."
    return failed(
        CheckId.CONNECTION,
        f"{where} is {found.fault.value}.",
        _explain_proxy(proxies) or hint,
    )


def _explain_proxy(proxies: Sequence[str]) -> str:
    """Return a hint that the environment's proxy is not used, or an empty string."""
    if not proxies:
        return ""
    return (
        f"{proxies[0]} is set, but is not read. If the operator is reached through "
        "this proxy, set UID2_PROXY (or EUID_PROXY) to its URL."
    )


def check_tls(found: Handshake | None, now: float) -> Finding:
    """Check TLS, which a plain http base URL does not use (None)."""
    check = CheckId.TLS
    if found is None:
        return ok(check, "Not used: the base URL is plain http.")
    if found.problem is not None:
        problem = found.problem
        hint = _CERTIFICATE_HINTS.get(problem.fault, problem.fault.value)
        return failed(check, f"No secure connection. {problem.message}", hint)
    if found.fault is not None:
        return failed(
            check,
            f"No TLS connection: {found.fault.value}.",
            _TLS_HINTS[found.fault],
        )
    days = int((found.expires - now) // _DAY_SECONDS)
    message = f"{found.version}, the certificate is valid for {days} days."
    if days < _CERTIFICATE_DAYS:
        return warning(check, message, "Renew the operator's certificate.")
    return ok(check, message)


_TLS_HINTS: Final = {
    HandshakeFault.NO_TLS: (
        "If this is a sandbox or a private operator without TLS, begin the base URL "
        "with http://. Otherwise check the port."
    ),
    HandshakeFault.CERTIFICATE: "Check the certificate of the operator.",
    HandshakeFault.TIMEOUT: "Check the network between this machine and the operator.",
    HandshakeFault.OTHER: (
        "Check that the operator supports TLS 1.2 or later, and the network in between."
    ),
}

# The library's own hints are for programs. These are for the command line.
_CERTIFICATE_HINTS: Final = {
    CertificateFault.NONCONFORMING: (
        "Reissue the certificate that the message describes, which may be that of the "
        "CA. Python 3.13 and later enforce RFC 5280; until then, run this with Python "
        "3.12 or earlier."
    ),
}


def check_operator(found: Reply | UID2Error, *, https: bool) -> Finding:
    """Check whether an operator replies to a request without an API key.

    The API key is sent to it only after that.
    """
    check = CheckId.OPERATOR
    if isinstance(found, UID2Error):
        return _explain_no_reply(found, https=https)
    is_refusal = found.status == 401  # noqa: PLR2004 - an HTTP status reads best as its number
    if is_refusal and _UNAUTHORIZED_BODY.search(found.body):
        return ok(check, "An operator replies, and requires an API key.")
    if 300 <= found.status < 400:  # noqa: PLR2004 - an HTTP status reads best as its number
        return failed(
            check,
            f"HTTP {found.status}: it redirects to {_host_of(found)}.",
            "If that is the operator, use it as the base URL. Otherwise a portal or "
            "proxy replies in its place.",
        )
    message, hint = _BY_STATUS.get(found.status, _UNEXPECTED_STATUS)
    return failed(check, f"HTTP {found.status}: {message}", hint)


_UNEXPECTED_STATUS: Final = (
    "an operator does not send such a reply.",
    "Check the base URL.",
)

_NO_OPERATOR: Final = (
    "a web page or another service replies, not an operator.",
    "Check the base URL. A captive portal or proxy may reply in its place.",
)

_FAILING: Final = (
    "the operator, or a gateway in front of it, is failing.",
    "Try again later. If it persists, contact the operator.",
)

_BY_STATUS: Final = {
    200: _NO_OPERATOR,
    401: (
        "a gateway in front of the operator requires a login.",
        "Check the gateway or proxy between here and the operator.",
    ),
    403: (
        "a gateway in front of the operator blocks this machine.",
        "Ask the operator to allow your IP address in its firewall.",
    ),
    404: (
        "there is no operator at this path.",
        "Remove the path from the base URL, or check which paths the gateway forwards.",
    ),
    405: _NO_OPERATOR,
    429: (
        "the operator limits the rate of requests.",
        "Try again later, and send fewer requests at once.",
    ),
    500: _FAILING,
    502: _FAILING,
    503: _FAILING,
    504: _FAILING,
}


def _explain_no_reply(error: UID2Error, *, https: bool) -> Finding:
    """Explain why there is no reply."""
    hung_up = isinstance(error, ConnectError) and error.disconnected
    garbled = isinstance(error, ProtocolError) and error.unparseable_http
    if not https and (hung_up or garbled):
        return failed(
            CheckId.OPERATOR,
            "The server does not support plain http.",
            "Begin the base URL with https://, or check the port.",
        )
    if isinstance(error, CallTimeoutError):
        return failed(
            CheckId.OPERATOR,
            "It accepts connections, but does not reply in time.",
            "Check the operator's load and health. --timeout waits longer.",
        )
    return failed_call(CheckId.OPERATOR, error)


def _host_of(reply: Reply) -> str:
    """Return the host of a redirect. Its path and query may contain secrets."""
    try:
        parts = urlsplit(reply.headers.get("location", ""))
        host = parts.hostname or ""
    except ValueError:
        return "another path"
    if not host or not host.isprintable():
        return "another path"
    return f"{parts.scheme}://{host}" if parts.scheme in {"http", "https"} else host


def check_latency(seconds: Sequence[float]) -> Finding:
    """Check the duration of the calls, each on an open connection."""
    if not seconds:
        return failed(CheckId.LATENCY, "No call got a reply.", "See the checks above.")
    middle, longest = (round(one * 1000) for one in (median(seconds), max(seconds)))
    message = f"Median {middle} ms, longest {longest} ms ({len(seconds)} calls)."
    if median(seconds) > _SLOW_SECONDS:
        return warning(
            CheckId.LATENCY,
            message,
            "Use a nearer region, or check the operator's load.",
        )
    return ok(CheckId.LATENCY, message)
