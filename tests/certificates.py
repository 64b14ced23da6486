"""Certificates for tests: signed by themselves, for this machine's names, in two PEM files."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


def write_certificate(
    folder: Path,
    *,
    name: str = "relay",
    expires_in: float = 30 * 86400.0,
    passphrase: str = "",
    names: x509.ExtensionType | None = None,
) -> int:
    """Write `NAME.crt` and `NAME.key`, new ones if there were any; returns the serial number.

    `expires_in` is in seconds; `names` is what it says that it is for, in place of localhost.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    if names is None:
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(seconds=expires_in))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    protection = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return certificate.serial_number


def serial_number(certificate: bytes) -> int:
    """Return the serial number of a certificate in DER, as connections have it."""
    return x509.load_der_x509_certificate(certificate).serial_number


def trusting(folder: Path, *, name: str = "relay") -> ssl.SSLContext:
    """Return a client's context that trusts this certificate and no other."""
    return ssl.create_default_context(cafile=folder / f"{name}.crt")
