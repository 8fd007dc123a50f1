"""What is found on the way to an operator: names, ports and certificates.

Each probe returns what it met, good or bad, and raises nothing of its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from enum import Enum
from typing import Final

import attrs

from uid2_async.tls import CertificateProblem, explain_certificate_error

__all__ = [
    "Connection",
    "ConnectionFault",
    "Handshake",
    "HandshakeFault",
    "Resolution",
    "connect",
    "resolve",
    "shake_hands",
]


@attrs.frozen
class Resolution:
    """What DNS says of a host.

    Attributes:
        host: The host.
        addresses: Its addresses; empty where it has none.
    """

    host: str
    addresses: tuple[str, ...] = ()


class ConnectionFault(Enum):
    """Why no connection was made."""

    REFUSED = "refused"
    TIMEOUT = "timed out"
    UNREACHABLE = "unreachable"


@attrs.frozen(kw_only=True)
class Connection:
    """What happened at a port.

    Attributes:
        address: The address that was tried last.
        port: The port.
        seconds: How long it took.
        fault: Why there is no connection; None where there is one.
    """

    address: str
    port: int
    seconds: float = 0.0
    fault: ConnectionFault | None = None


class HandshakeFault(Enum):
    """Why TLS failed."""

    NO_TLS = "the server does not speak TLS"
    CERTIFICATE = "the certificate was refused"
    TIMEOUT = "the handshake took too long"
    OTHER = "the handshake failed"


@attrs.frozen(kw_only=True)
class Handshake:
    """What happened during TLS.

    Attributes:
        version: Such as ``TLSv1.3``.
        expires: When the certificate ends, in seconds since the Unix epoch.
        fault: Why it failed; None where it did not.
        problem: Why the certificate was refused, where that is the fault.
    """

    version: str = ""
    expires: float = 0.0
    fault: HandshakeFault | None = None
    problem: CertificateProblem | None = None


async def resolve(host: str, port: int, *, timeout: float) -> Resolution:
    """Look up the addresses of *host*."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, UnicodeError, TimeoutError):
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(one[4][0]) for one in found)
        return Resolution(host, tuple(addresses))
    return Resolution(host)


async def connect(
    addresses: tuple[str, ...], port: int, *, timeout: float
) -> Connection:
    """Connect to the first of *addresses* that answers."""
    found = Connection(address="", port=port, fault=ConnectionFault.UNREACHABLE)
    for address in addresses:
        found = await _connect(address, port, timeout)
        if found.fault is None:
            break
    return found


async def _connect(address: str, port: int, timeout: float) -> Connection:
    """Connect to one address, and hang up."""
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
    return Connection(address=address, port=port, seconds=now() - started, fault=fault)


async def shake_hands(
    address: str, port: int, host: str, context: ssl.SSLContext, *, timeout: float
) -> Handshake:
    """Begin TLS with *host* at *address*, and hang up."""
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
    """Hang up; how the other side takes it does not matter."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
