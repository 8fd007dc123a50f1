"""Which contexts are accepted, and what is said about a refused certificate."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import DAY, Faults, contexts, shake_hands
from uid2_async import errors
from uid2_async.connections import map_error
from uid2_async.tls import (
    CertificateFault,
    check_context,
    explain_certificate_error,
    verifying_context,
)

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
REFUSED = {
    "basic constraints that are not critical": (
        Faults(ca_critical=False),
        CertificateFault.NONCONFORMING,
        "Basic Constraints",
    ),
    "no authority key identifier": (
        Faults(authority_key=False),
        CertificateFault.NONCONFORMING,
        "Authority Key Identifier",
    ),
    "a CA without key usage": (
        Faults(ca_usage=False),
        CertificateFault.NONCONFORMING,
        "key usage",
    ),
    "an unknown extension that is critical": (
        Faults(critical=UNKNOWN),
        CertificateFault.NONCONFORMING,
        "critical extension",
    ),
    "a weak key": (Faults(rsa_bits=1024), CertificateFault.WEAK, "key too weak"),
    "a certificate of a client": (
        Faults(purpose=ExtendedKeyUsageOID.CLIENT_AUTH),
        CertificateFault.WRONG_PURPOSE,
        "purpose",
    ),
    "an issuer that is not a CA": (
        Faults(ca=False, ca_usage=False),
        CertificateFault.WRONG_PURPOSE,
        "CA",
    ),
    "another address": (
        Faults(host="127.0.0.2"),
        CertificateFault.WRONG_HOST,
        "mismatch",
    ),
    "a host name": (Faults(host="x.example"), CertificateFault.WRONG_HOST, "mismatch"),
    "expired": (
        Faults(begins=-2 * DAY, ends=-DAY),
        CertificateFault.EXPIRED,
        "expired",
    ),
    "not yet valid": (
        Faults(begins=DAY, ends=2 * DAY),
        CertificateFault.NOT_YET_VALID,
        "not yet valid",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_certificate_is_named_for_what_it_is(
    case: str, tmp_path: Path
) -> None:
    """OpenSSL's own words, the kind, and a hint that fits."""
    faults, kind, words = REFUSED[case]
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(*contexts(faults, tmp_path))

    problem = explain_certificate_error(caught.value)
    error = map_error(caught.value)

    assert problem.fault is kind, caught.value
    assert words.lower() in problem.message.lower()
    assert type(error) is errors.CertificateError
    assert error.message.startswith(problem.message.rstrip("."))
    assert error.hint == kind.value


def test_a_good_certificate_is_accepted(tmp_path: Path) -> None:
    """The chain of the test above has the one fault that it is given."""
    shake_hands(*contexts(Faults(), tmp_path))


def test_an_unknown_authority_is_named(tmp_path: Path) -> None:
    """The hint says how a private CA is trusted."""
    server, _ = contexts(Faults(), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(server, ssl.create_default_context())

    assert explain_certificate_error(caught.value).fault is CertificateFault.UNTRUSTED
    assert "UID2_CA_FILE" in map_error(caught.value).hint


def test_an_error_without_a_code_is_explained_too() -> None:
    """An exception that OpenSSL did not make has no reason, and its text stays out."""
    problem = explain_certificate_error(ssl.SSLCertVerificationError("canary"))

    assert problem.fault is CertificateFault.OTHER
    assert "canary" not in problem.message


def test_the_context_that_the_hint_recommends_is_accepted() -> None:
    """Also where Python is built so that OpenSSL chooses the oldest version."""
    check_context(ssl.create_default_context())
    check_context(verifying_context())
    context = ssl.create_default_context()
    trustme.CA().configure_trust(context)
    check_context(context)


@pytest.mark.parametrize("level", ["DEFAULT", "DEFAULT:@SECLEVEL=0"])
def test_old_versions_are_refused_where_they_are_allowed(level: str) -> None:
    """An explicit TLS 1.0, and the least that there is unless that is the build's."""
    default = ssl.create_default_context().minimum_version
    context = ssl.create_default_context()
    context.set_ciphers(level)
    allowed = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]
    if default is not ssl.TLSVersion.MINIMUM_SUPPORTED or "@" in level:
        allowed.append(ssl.TLSVersion.MINIMUM_SUPPORTED)
    for version in allowed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = version
        with pytest.raises(errors.ConfigError, match=r"TLS 1\.2"):
            check_context(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    check_context(context)
