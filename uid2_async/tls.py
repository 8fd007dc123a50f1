"""TLS contexts: what the library makes itself, and what it takes from a caller."""

from __future__ import annotations

import ssl

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError

__all__ = ["check_context", "verifying_context"]


def check_context(context: ssl.SSLContext) -> None:
    """Refuse a context that would let somebody else be the operator.

    Raises:
        ConfigError: If it does not verify, or allows what is older than TLS 1.2.
    """
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigError(
            "The SSL context does not verify certificates and host names.",
            hint="Load a private CA into a context of ssl.create_default_context().",
        )
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise ConfigError("The SSL context allows versions older than TLS 1.2.")


def verifying_context() -> ssl.SSLContext:
    """Make the TLS context: verified, 1.2 or newer, and never logging its keys."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The default context honours SSLKEYLOGFILE, which hands all traffic to a reader.
    context.keylog_filename = None  # type: ignore[assignment] # typeshed lacks None
    return context


strip_tracebacks(globals())
