"""Checks from a host name to an operator's first reply: DNS, TCP, TLS and HTTP."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from uid2_async._call import CLIENT_VERSION
from uid2_async.doctor.findings import Verdict, failed, failed_call, ok, warning
from uid2_async.errors import CallTimeoutError, ConnectError, ProtocolError, UID2Error
from uid2_async.protocol.tokens import GENERATE_PATH
from uid2_async.tls import (
    CertificateFault,
    CertificateProblem,
    explain_certificate_error,
)
from uid2_async.transport import Reply, Request, SessionPool

_SLOW_SECONDS: Final = 1.0
_CERTIFICATE_DAYS: Final = 14
_DAY_SECONDS: Final = 86_400


# --- DNS and TCP ----------------------------------------------------------------------


async def resolve(host: str, port: int, *, timeout: float) -> tuple[str, ...]:
    """Return the IP addresses of *host*, or nothing if it does not resolve."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, UnicodeError, TimeoutError):
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(one[4][0]) for one in found))
    return ()


def check_dns(host: str, addresses: Sequence[str], proxies: Sequence[str]) -> Verdict:
    """Check whether *host* resolves.

    *proxies* are environment variables that name an HTTP proxy, and are not used.
    """
    if not addresses:
        return failed(
            f"The host {host} does not resolve.",
            _explain_proxy(proxies)
            or "Check its spelling in the base URL, and this machine's DNS and VPN.",
        )
    first, *others = addresses
    if first == host:
        return ok(f"Not needed: {first} is an IP address.")
    more = f" and {len(others)} more" if others else ""
    return ok(f"{host} is {first}{more}.")


async def check_connection(
    addresses: Sequence[str], port: int, proxies: Sequence[str], *, timeout: float
) -> tuple[Verdict, str]:
    """Connect to the first of *addresses* that answers, and return that address, too.

    See :func:`check_dns` for *proxies*.
    """
    now = asyncio.get_running_loop().time
    error, address = OSError(), ""
    for address in addresses:
        started = now()
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(address, port)
        except OSError as caught:
            error = caught
        else:
            ms = round((now() - started) * 1000)
            await _close(writer)
            message = f"Port {port} answers within {ms} ms."
            return ok(message), address
    return explain_no_connection(error, f"{address}, port {port}", proxies), address


def explain_no_connection(
    error: OSError, where: str, proxies: Sequence[str]
) -> Verdict:
    """Explain why a port cannot be reached."""
    hint = "Check the firewall, security group and VPN on the way to the operator."
    match error:
        case TimeoutError():
            why = "silent: connecting timed out"
        case ConnectionRefusedError():
            why = "closed: the connection was refused"
            hint = "Check the port in the base URL, and that the operator is running."
        case _:
            why = "unreachable"
    message = f"{where} is {why}."
    return failed(message, _explain_proxy(proxies) or hint)


def _explain_proxy(proxies: Sequence[str]) -> str:
    """Return a hint that the environment's proxy is not used, or an empty string."""
    if not proxies:
        return ""
    return (
        f"{proxies[0]} is set, but is not read. If the operator is reached through "
        "this proxy, set UID2_PROXY (or EUID_PROXY) to its URL."
    )


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and ignore errors."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


# --- TLS ------------------------------------------------------------------------------

_NO_TLS_REASONS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
)

# The library's own hints are for programs. These are for the command line.
_CERTIFICATE_HINTS: Final = {
    CertificateFault.NONCONFORMING: (
        "Reissue the certificate that the message describes, which may be that of the "
        "CA. Python 3.13 and later enforce RFC 5280; until then, run this with Python "
        "3.12 or earlier."
    )
}


async def check_tls(
    address: str,
    port: int,
    host: str,
    context: ssl.SSLContext,
    *,
    timeout: float,
    now: float,
) -> Verdict:
    """Perform a TLS handshake with *host* at *address*, and check the certificate."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host
            )
    except OSError as error:
        return explain_no_tls(error)
    secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
    version, certificate = secured.version(), secured.getpeercert() or {}
    await _close(writer)
    expires = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((expires - now) // _DAY_SECONDS)
    message = f"{version}, the certificate is valid for {days} days."
    if days < _CERTIFICATE_DAYS:
        return warning(message, "Renew the operator's certificate.")
    return ok(message)


def explain_no_tls(error: OSError) -> Verdict:
    """Explain why a TLS handshake failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return explain_certificate(explain_certificate_error(error))
        case ssl.SSLError(reason=reason) if reason in _NO_TLS_REASONS:
            why = "the server does not speak TLS"
            hint = (
                "If this is a sandbox or a private operator without TLS, begin the "
                "base URL with http://. Otherwise check the port."
            )
        case TimeoutError():
            why = "the handshake took too long"
            hint = "Check the network between this machine and the operator."
        case _:
            why = "the handshake failed"
            hint = (
                "Check that the operator supports TLS 1.2 or later, and the network in "
                "between."
            )
    return failed(f"No TLS connection: {why}.", hint)


def explain_certificate(problem: CertificateProblem) -> Verdict:
    """Explain why a certificate was rejected."""
    hint = _CERTIFICATE_HINTS.get(problem.fault, problem.fault.value)
    return failed(f"No secure connection. {problem.message}", hint)


# --- HTTP -----------------------------------------------------------------------------

_UNAUTHORIZED_BODY: Final = re.compile(
    rb'\{.*"status"\s*:\s*"unauthorized".*\}', re.DOTALL
)


async def request_without_key(
    pool: SessionPool, *, timeout: float
) -> Reply | UID2Error:
    """Send a request without an API key to an endpoint that requires one.

    Returns:
        The reply, or the error if there was none.
    """
    request = Request(
        path=GENERATE_PATH,
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


def check_operator(found: Reply | UID2Error, *, https: bool) -> Verdict:
    """Check whether an operator replies to a request without an API key.

    The API key is sent to it only after that.
    """
    if isinstance(found, UID2Error):
        return _explain_no_reply(found, https=https)
    is_refusal = found.status == 401  # noqa: PLR2004 - an HTTP status reads best as its number
    if is_refusal and _UNAUTHORIZED_BODY.search(found.body):
        return ok("An operator replies, and requires an API key.")
    if 300 <= found.status < 400:  # noqa: PLR2004 - an HTTP status reads best as its number
        return failed(
            f"HTTP {found.status}: it redirects to {_host_of(found)}.",
            "If that is the operator, use it as the base URL. Otherwise a portal or "
            "proxy replies in its place.",
        )
    message, hint = _BY_STATUS.get(found.status, _UNEXPECTED_STATUS)
    return failed(f"HTTP {found.status}: {message}", hint)


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


def _explain_no_reply(error: UID2Error, *, https: bool) -> Verdict:
    hung_up = isinstance(error, ConnectError) and error.disconnected
    garbled = isinstance(error, ProtocolError) and error.unparseable_http
    if not https and (hung_up or garbled):
        return failed(
            "The server does not support plain http.",
            "Begin the base URL with https://, or check the port.",
        )
    if isinstance(error, CallTimeoutError):
        return failed(
            "It accepts connections, but does not reply in time.",
            "Check the operator's load and health. --timeout waits longer.",
        )
    return failed_call(error)


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


def check_latency(seconds: Sequence[float]) -> Verdict:
    """Check the duration of the calls, each on an open connection."""
    if not seconds:
        return failed("No call got a reply.", "See the checks above.")
    middle, longest = (round(one * 1000) for one in (median(seconds), max(seconds)))
    message = f"Median {middle} ms, longest {longest} ms ({len(seconds)} calls)."
    if median(seconds) > _SLOW_SECONDS:
        return warning(message, "Use a nearer region, or check the operator's load.")
    return ok(message)
