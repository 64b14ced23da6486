"""Reads the public key of another issuer of tokens, and tells the algorithm that fits it.

The `auth` package verifies tokens with it. This module imports the cryptography package only if a key is configured.
"""

from __future__ import annotations

from pathlib import Path

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The algorithms that use a public key. HS256 uses a shared secret."""

MAX_KEY_FILE_BYTES = 65536
"""Bytes that are read of the file of a key."""
MIN_RSA_BITS = 2048
"""Bits of the shortest RSA key that is allowed (RFC 7518, 3.3)."""


def algorithm_of(path: Path) -> str:
    """Return the algorithm of tokens that the public key in this PEM file verifies.

    Raises:
        ValueError: the file is missing, or does not contain a usable public key; the message says which.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with path.open("rb") as file:
            pem = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name a PEM file with a public key") from None
    if b"PRIVATE KEY-----" in pem:
        raise ValueError(f"{path} contains a private key; export its public half with: openssl pkey -in KEY -pubout")
    if (count := pem.count(b"-----BEGIN ")) > 1:  # the first one would be read, and the others ignored
        raise ValueError(f"{path} contains {count} keys; keep one, and publish several with auth.jwt_jwks_url")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            f"{path} does not contain a readable public key; it must be PEM and begin with -----BEGIN PUBLIC KEY-----"
        ) from None
    algorithm = algorithm_of_key(key)
    if algorithm is None:
        raise ValueError(f"Relay does not support the type of the key in {path}; use RSA, P-256 or Ed25519")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise ValueError(f"the RSA key in {path} has {key.key_size} bits; use one of {MIN_RSA_BITS} or more")
    return algorithm


def algorithm_of_key(key: object) -> str | None:
    """Return the only algorithm that a public key is used with; None for a kind that verifies no token (RFC 8725, 3.1)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    return None
