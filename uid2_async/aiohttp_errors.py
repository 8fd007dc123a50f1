"""Converts aiohttp's exceptions to those of this library by class and number.

Their text is not used, because it may contain headers of the reply, a URL or a proxy's
credentials.
"""

from __future__ import annotations

import copy
import ssl
from typing import Final

import aiohttp

from uid2_async.errors import (
    CallTimeoutError,
    CertificateError,
    ConfigError,
    ConnectError,
    ProtocolError,
    TransportError,
    UID2Error,
)
from uid2_async.tls import explain_certificate_error

__all__ = ["map_error"]

_PROXY_AUTH_REQUIRED: Final = 407


def map_error(error: Exception) -> UID2Error:
    """Convert an exception to a new error of this library that does not reference it.

    An error of this library is copied, because it may come from a resolver or connector
    of the caller, with frames of aiohttp in its traceback.
    """
    name = type(error).__name__
    try:
        mapped = copy.copy(error) if isinstance(error, UID2Error) else _map(error)
    except Exception:  # noqa: BLE001 - a foreign class may fail in any way
        mapped = TransportError("Sending failed.")
    if not isinstance(error, UID2Error):
        mapped.message = f"{mapped.message.rstrip('.')} ({name})."
        mapped.args = (mapped.message,)
    return mapped


def _map(  # noqa: C901, PLR0911 - one table, to be read as a whole
    error: Exception,
) -> UID2Error:
    """Choose the error by the class, never by the text."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _map_certificate(getattr(error, "certificate_error", None))
        case ssl.SSLCertVerificationError():
            return _map_certificate(error)
        case aiohttp.ServerFingerprintMismatch():
            return CertificateError("The certificate does not match the fingerprint.")
        case aiohttp.ConnectionTimeoutError():
            return ConnectError("Connecting to the operator took too long.")
        case TimeoutError():
            return CallTimeoutError("The operator did not reply in time.")
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            return _map_proxy(getattr(error, "status", 0))
        case aiohttp.ClientConnectorError():
            return ConnectError("The operator could not be reached.")
        case aiohttp.ServerDisconnectedError() | OSError():
            return ConnectError(
                "The operator closed the connection.", disconnected=True
            )
        case aiohttp.ClientPayloadError():
            return TransportError("The reply was truncated.")
        case aiohttp.InvalidURL():
            return ConfigError("The base URL is not a URL.")
        case aiohttp.ClientResponseError():
            return ProtocolError("The reply is not HTTP.", unparseable_http=True)
        case _:
            return TransportError("Sending failed.")


def _map_proxy(status: int) -> UID2Error:
    """Return the error for a proxy's HTTP status, or 0 if it could not be reached."""
    if not status:
        hint = "Check the proxy's host and port (proxy=, UID2_PROXY or EUID_PROXY)."
        return ConnectError("The proxy could not be reached.", hint=hint)
    message = f"The proxy refused the connection: HTTP {status}."
    if status == _PROXY_AUTH_REQUIRED:
        hint = "Put the user name and password into the proxy's URL."
        return ConnectError(message, hint=hint)
    hint = "Ask the proxy's administrator to allow the operator's host and port."
    return ConnectError(message, hint=hint)


def _map_certificate(reason: BaseException | None) -> UID2Error:
    """Return the error for the fault that OpenSSL found, without any other text."""
    if not isinstance(reason, ssl.SSLCertVerificationError):
        return CertificateError("The operator's certificate was rejected.")
    problem = explain_certificate_error(reason)
    return CertificateError(problem.message, hint=problem.fault.value)
