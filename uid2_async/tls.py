"""TLS contexts and certificates: what is accepted, and why others are rejected."""

from __future__ import annotations

import os
import ssl
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp


class CertificateFault(Enum):
    """Why a certificate was rejected. The value is a hint on how to fix it."""

    EXPIRED = "Check this machine's clock. If it is right, renew the certificate."
    NOT_YET_VALID = "Set this machine's clock (NTP). If it is right, check the dates."
    UNTRUSTED = (
        "For a private CA, set UID2_CA_FILE (or EUID_CA_FILE) to its PEM file, or pass "
        "ca_file= to the client. Otherwise a proxy may be intercepting the connection."
    )
    WRONG_HOST = "Use the host name that the certificate was issued for."
    NONCONFORMING = (
        "Reissue the certificate that the message describes, which may be that of the "
        "CA. Python 3.13 and later enforce RFC 5280. Until then, pass ssl= to "
        "SessionPool with a context without ssl.VERIFY_X509_STRICT."
    )
    WEAK = (
        "Reissue the certificate with RSA of 2048 bits or more, or an elliptic curve, "
        "and SHA-256."
    )
    WRONG_PURPOSE = (
        "Reissue the certificate: a server needs the extended key usage serverAuth, "
        "a CA needs CA:TRUE and the key usage keyCertSign."
    )
    REVOKED = "Do not trust this server. Ask its administrator for a new certificate."
    OTHER = "Check the server's certificate chain against the message."


class CertificateProblem(NamedTuple):
    """Why OpenSSL rejected a certificate.

    Attributes:
        fault: The kind of fault. Its value is a hint.
        message: What happened, in one sentence that quotes OpenSSL.
    """

    fault: CertificateFault
    message: str


# The error codes of OpenSSL's x509_vfy.h.
_CODES: Final[dict[CertificateFault, tuple[int, ...]]] = {
    CertificateFault.NOT_YET_VALID: (9,),
    CertificateFault.EXPIRED: (10,),
    CertificateFault.UNTRUSTED: (2, 18, 19, 20, 21, 27, 28),
    CertificateFault.WRONG_HOST: (62, 63, 64),
    CertificateFault.REVOKED: (23,),
    CertificateFault.WEAK: (66, 67, 68),
    CertificateFault.WRONG_PURPOSE: (24, 25, 26, 32, 37, 39, 47, 48, 79),
    CertificateFault.NONCONFORMING: (13, 14, 34, 41, *range(80, 95)),
}
_FAULTS: Final = {code: fault for fault, codes in _CODES.items() for code in codes}


def explain_certificate_error(
    error: ssl.SSLCertVerificationError,
) -> CertificateProblem:
    """Return why OpenSSL rejected a certificate, in its own words and with a hint.

    The text is OpenSSL's description of its error code. It may contain the host name,
    but never a header, a URL or a secret.
    """
    # Both are missing if the exception does not come from the ssl module.
    code: int = getattr(error, "verify_code", 0)
    text = str(getattr(error, "verify_message", "")).rstrip(".")
    return CertificateProblem(
        fault=_FAULTS.get(code, CertificateFault.OTHER),
        message=f"The operator's certificate was rejected: {text or 'unknown reason'}.",
    )


def check_context(context: ssl.SSLContext) -> None:
    """Raise if a context would accept an impostor as the operator.

    Raises:
        ConfigError: If the context does not verify certificates, or explicitly allows a
            version older than TLS 1.2.
    """
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigError(
            "The SSL context does not verify certificates and host names.",
            hint="Load a private CA into a context of ssl.create_default_context().",
        )
    if _allows_old_tls(context):
        raise ConfigError(
            "The SSL context allows versions older than TLS 1.2.",
            hint="Set its minimum_version to ssl.TLSVersion.TLSv1_2.",
        )


def _allows_old_tls(context: ssl.SSLContext) -> bool:
    """Return whether *context* was explicitly allowed to use less than TLS 1.2.

    Debian, Ubuntu and others build Python so that OpenSSL chooses the oldest version.
    The setting is then MINIMUM_SUPPORTED. It is the lowest number, but does not enable
    old TLS, which OpenSSL 3 supports only at security level 0.
    """
    minimum = context.minimum_version
    unset = ssl.TLSVersion.MINIMUM_SUPPORTED
    if minimum is unset and context.security_level > 0:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).minimum_version is not unset
    return minimum < ssl.TLSVersion.TLSv1_2


def check_connector(connector: aiohttp.BaseConnector) -> None:
    """Raise if an aiohttp connector would accept an impostor as the operator.

    Connectors of other classes and overridden methods cannot be checked.

    Raises:
        ConfigError: If the connector does not verify certificates, or its context is
            rejected.
    """
    # There is no public attribute for this.
    verifies = getattr(connector, "_ssl", True)
    if verifies is False:
        raise ConfigError(
            "The session does not verify certificates.",
            hint="Create its TCPConnector without ssl=False.",
        )
    if isinstance(verifies, ssl.SSLContext):
        check_context(verifies)


def verifying_context(
    ca_file: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Create a TLS context that verifies, requires TLS 1.2 and logs no keys.

    Args:
        ca_file: A PEM file with the CAs to trust instead of the system's.

    Raises:
        ConfigError: If the file cannot be read or contains no certificate.
    """
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        context = _trusting(os.fspath(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The default context honors SSLKEYLOGFILE, with which others can read all
    # traffic.
    context.keylog_filename = None  # type: ignore[assignment] # typeshed lacks None
    return context


def _trusting(ca_file: str) -> ssl.SSLContext:
    """Create a context that trusts only the certificates in a file."""
    try:
        # OpenSSL describes a folder or an unreadable file less clearly.
        with open(ca_file, "rb") as file:  # noqa: PTH123 - before any Path is made
            file.read(1)
        context = ssl.create_default_context(cafile=ca_file)
        if context.cert_store_stats()["x509"]:
            return context
        problem = "has no certificate"
    except ssl.SSLError:
        problem = "is not a PEM file of certificates"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        problem = "cannot be read: the name is not valid"
    raise ConfigError(
        f"The CA file {ca_file} {problem}.",
        hint="Use a PEM file with the certificate of the CA, beginning with "
        "-----BEGIN CERTIFICATE-----. Convert a DER file: openssl x509 -inform der.",
    )


strip_tracebacks(globals())
