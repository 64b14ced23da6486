"""Certificates for tests: signed by themselves or by another one, for this machine's names, in two PEM files."""

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
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID


def write_certificate(
    folder: Path,
    *,
    name: str = "relay",
    expires_in: float = 30 * 86400.0,
    passphrase: str = "",
    names: x509.ExtensionType | None = None,
    issuer: str = "",
) -> int:
    """Write `NAME.crt` and `NAME.key`, new ones if there were any; returns the serial number.

    `expires_in` is in seconds; `names` is what it says that it is for, in place of localhost. `issuer` names the
    certificate in the folder that signs it, in place of itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = "localhost" if name == "relay" else name
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer, signer_key = _load(folder, issuer) if issuer else (subject, key)
    now = datetime.now(UTC)
    if names is None:
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(seconds=expires_in))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None if issuer else 0), critical=True)
        .sign(signer_key, hashes.SHA256())
    )
    protection = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return certificate.serial_number


def _load(folder: Path, name: str) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    key = load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()).subject, key


def serial_number(certificate: bytes) -> int:
    """Return the serial number of a certificate in DER, as connections have it."""
    return x509.load_der_x509_certificate(certificate).serial_number


def trusting(folder: Path, *, name: str = "relay") -> ssl.SSLContext:
    """Return a client's context that trusts this certificate and no other."""
    return ssl.create_default_context(cafile=folder / f"{name}.crt")
