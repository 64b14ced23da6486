"""Signs requests to backends as Standard Webhooks 1.0 says, so that a backend can verify that Relay sent them. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


def signed_headers(keys: Sequence[bytes], id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a request. `timestamp` is in seconds since the Unix epoch, at this attempt.

    Each key adds a signature, so that a receiver may know either key while a secret is being changed.
    """
    signed = b"%b.%d.%b" % (id_.encode(), timestamp, body)
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
