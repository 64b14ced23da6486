"""Loads a TLS certificate and its key from two PEM files, or says which file is wrong and why.

The transports serve connections with it. This module imports the cryptography package only if a certificate is configured.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

MAX_FILE_BYTES = 1_048_576
"""Bytes that are read of a file."""
ALPN_PROTOCOLS = ("http/1.1",)
"""HTTP/2 would let a WebSocket in past what Relay checks (RFC 8441)."""


class CertificateError(Exception):
    """The files cannot be used. `setting` names the setting of the wrong file: `tls_cert` or `tls_key`."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@attrs.frozen(eq=False)
class Certificate:
    """A certificate that the server can use for connections."""

    context: ssl.SSLContext
    hosts: tuple[str, ...]
    """The host names and addresses that the certificate covers."""
    expires_at: datetime


def load_certificate(cert: Path, key: Path) -> Certificate:
    """Load a chain of certificates, the server's own first, and its key.

    An expired certificate is loaded too, because it may be the only one. The caller checks `expires_at`.

    Raises:
        CertificateError: a file is missing or has other content, or the key belongs to another certificate.
    """
    leaf, public = _leaf(cert)
    if _private_key(key).public_key() != public:
        raise CertificateError("tls_key", f"the key in {key} does not belong to the certificate in {cert}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")  # without it OpenSSL asks on the terminal
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CertificateError("tls_cert", f"OpenSSL refuses {cert} and {key}: {why}") from None
    return Certificate(context, _hosts(leaf), leaf.not_valid_after_utc)


def own_certificate(cert: Path) -> bytes:
    """Return the server's own certificate, the first of the chain in the file, as DER.

    Raises:
        CertificateError: the file is missing or has other content.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    leaf, _ = _leaf(cert)
    der: bytes = leaf.public_bytes(Encoding.DER)
    return der


def _leaf(cert: Path) -> tuple[Any, Any]:
    """Return the first certificate of the file, and its public key."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        leaf = x509.load_pem_x509_certificates(_read("tls_cert", cert))[0]
        return leaf, leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        message = (
            f"{cert} does not contain a readable certificate; it must be PEM and begin with -----BEGIN CERTIFICATE-----"
        )
        raise CertificateError("tls_cert", message) from None


def _private_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read("tls_key", path)
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        message = f"{path} is protected by a passphrase; remove it with: openssl pkey -in {path} -out FILE"
    except (ValueError, UnsupportedAlgorithm):
        message = (
            f"{path} does not contain a readable private key; it must be PEM and begin with -----BEGIN PRIVATE KEY-----"
        )
    raise CertificateError("tls_key", message)


def _read(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise CertificateError(setting, f"{path} cannot be read ({error.strerror}); name a PEM file") from None


def _hosts(leaf: Any) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()  # the names are only logged, and clients may understand an extension that this library does not
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))
