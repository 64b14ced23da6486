"""The certificate and the key that TLS is spoken with: from two PEM files to a context, or to what is wrong with which of them.

Serving connections is the business of the transports. The cryptography package is imported only when there is a certificate.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

MAX_FILE_BYTES = 1_048_576
ALPN_PROTOCOLS = ("http/1.1",)
"""HTTP/2 would let a WebSocket in past what Relay checks (RFC 8441)."""


class CertificateError(Exception):
    """The files cannot be used; `setting` is the key of the one to look at, `tls_cert` or `tls_key`."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@attrs.frozen(eq=False)
class Certificate:
    """A certificate that connections can be served with."""

    context: ssl.SSLContext
    hosts: tuple[str, ...]
    """The names and addresses that it is for."""
    expires_at: datetime


def load_certificate(cert: Path, key: Path) -> Certificate:
    """Return what these files hold: the server's certificate first, then those between it and its root; and its key.

    One that has expired is loaded too, for that may be all there is: whoever loads it looks at `expires_at`.

    Raises:
        CertificateError: a file is missing or holds something else, or they do not belong together.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        leaf = x509.load_pem_x509_certificates(_read("tls_cert", cert))[0]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        message = (
            f"{cert} holds no certificate that can be read; it must be PEM and begin with -----BEGIN CERTIFICATE-----"
        )
        raise CertificateError("tls_cert", message) from None
    if _private_key(key).public_key() != public:
        raise CertificateError("tls_key", f"the key in {key} is not the one of the certificate in {cert}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")  # without one OpenSSL would ask on the terminal
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CertificateError("tls_cert", f"OpenSSL does not take {cert} and {key}: {why}") from None
    return Certificate(context, _hosts(leaf), leaf.not_valid_after_utc)


def _private_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read("tls_key", path)
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        message = f"{path} is protected by a passphrase; take it off: openssl pkey -in {path} -out FILE"
    except (ValueError, UnsupportedAlgorithm):
        message = (
            f"{path} holds no private key that can be read; it must be PEM and begin with -----BEGIN PRIVATE KEY-----"
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
        return ()  # it is for saying it only: what a certificate holds that is not understood here, clients may understand
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))
