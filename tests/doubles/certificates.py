"""Certificates with one fault each, and a handshake that uses them."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extensions: TypeAlias = tuple[tuple[x509.ExtensionType, bool], ...]

DAY = dt.timedelta(days=1)
HOST = "127.0.0.1"
SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@attrs.frozen
class Faults:
    """The faults of a chain of two certificates. None by default."""

    ca_critical: bool = True
    ca: bool = True
    ca_usage: bool = True
    authority_key: bool = True
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    rsa_bits: int | None = None
    host: str = HOST
    begins: dt.timedelta = -DAY
    ends: dt.timedelta = DAY
    critical: x509.ExtensionType | None = None


@cache
def new_key(rsa_bits: int | None = None, name: str = "") -> Key:
    """Create a key, once for each kind and *name*."""
    if rsa_bits is None:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)


def _issue(
    subject: str, key: Key, issuer: str, signer: Key, faults: Faults, more: Extensions
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)])
        for one in (subject, issuer)
    ]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder(*reversed(names))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + faults.begins)
        .not_valid_after(now + faults.ends)
        .add_extension(identifier, critical=False)
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _authority(faults: Faults) -> x509.Certificate:
    key = new_key(name="ca")
    more: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=faults.ca, path_length=None), faults.ca_critical)
    ]
    if faults.ca_usage:
        more.append((SIGNS, True))
    return _issue("Test CA", key, "Test CA", key, Faults(), tuple(more))


def _server(faults: Faults) -> x509.Certificate:
    signer = new_key(name="ca")
    try:
        name: Any = x509.IPAddress(ipaddress.ip_address(faults.host))
    except ValueError:
        name = x509.DNSName(faults.host)
    more: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([name]), False),
        (x509.ExtendedKeyUsage([faults.purpose]), False),
    ]
    if faults.authority_key:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            signer.public_key()
        )
        more.append((identifier, False))
    if faults.critical is not None:
        more.append((faults.critical, True))
    key = new_key(faults.rsa_bits)
    return _issue("server", key, "Test CA", signer, faults, tuple(more))


def contexts(faults: Faults, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Create the server's context, and that of a strict client that trusts the CA."""
    authority = _authority(faults).public_bytes(serialization.Encoding.PEM)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Otherwise the server refuses to use a weak certificate.
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    private = new_key(faults.rsa_bits).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain = folder / "server.pem"
    chain.write_bytes(
        private + _server(faults).public_bytes(serialization.Encoding.PEM)
    )
    server.load_cert_chain(chain)
    client = ssl.create_default_context(cadata=authority.decode())
    # The default since Python 3.13.
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return server, client


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Perform a handshake in memory for the host that the client expects.

    Raises:
        ssl.SSLCertVerificationError: If the client rejects the certificate.
    """
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(back, there, server_hostname=HOST),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def write_ca(folder: Path) -> Path:
    """Write the certificate of the CA to a PEM file."""
    path = folder / "ca.pem"
    path.write_bytes(_authority(Faults()).public_bytes(serialization.Encoding.PEM))
    return path
