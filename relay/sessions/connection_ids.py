"""The ids of connections: opaque texts that cannot be guessed, and from which the number of a connection is found again."""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

KEY_BYTES = 16
"""Bytes of the key of the cipher: AES-128."""
BLOCK_BYTES = 16
"""The block of the cipher: the number in its last half. Its first half is zero, so a guess is right once in 2**64 tries."""


class ConnectionIds:
    """Makes ids from numbers by a key of this run of the server. So no id comes again, and none takes memory."""

    def __init__(self) -> None:
        # One block is encrypted at a time, and no block twice, so no mode of operation could hide more.
        cipher = Cipher(AES(secrets.token_bytes(KEY_BYTES)), ECB())  # noqa: S305
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update

    def of(self, number: int) -> str:
        """Return the id of a number from 0 to 2**64 - 1."""
        return self._encrypt(number.to_bytes(BLOCK_BYTES, "big")).hex()

    def number_of(self, id_: str) -> int | None:
        """Return the number of an id; None for every other text."""
        if len(id_) != 2 * BLOCK_BYTES:
            return None
        try:
            block = bytes.fromhex(id_)
        except ValueError:
            return None
        if len(block) != BLOCK_BYTES or block.hex() != id_:  # spaces or upper case
            return None
        number = int.from_bytes(self._decrypt(block), "big")
        return number if number < 1 << 64 else None
