"""The form in which a secret is stored.

The value is encrypted (AES-256-GCM) under a data key of its own. The data key is sealed (HPKE, RFC
9180) for the holder of a private key, so a new private key needs new data keys' seals only. Both
are bound to the row that they stand in: in another row, or as another kind, they do not open.
"""

import json
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

FORMAT: Final = 1
"""The first byte of both parts."""
SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
NONCE_BYTES: Final = 12
DATA_KEY_BITS: Final = 256


class SecretUnreadableError(Exception):
    """A stored secret cannot be opened; the message names no content."""


class KeyMissingError(SecretUnreadableError):
    """It is sealed for a private key that this process does not have."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"it is sealed for the key {key_id}, which is not among the private keys")
        self.key_id = key_id


class SecretDamagedError(SecretUnreadableError):
    """What is stored was changed, stands in another row, or is of an unknown format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretPlace:
    """The row that a secret is bound to; every new value has a new version."""

    tenant_id: str
    secret_id: str
    name: str
    kind: str
    version: int

    def bind(self, purpose: str) -> bytes:
        """What is authenticated beside the content; the same only for an equal place."""
        parts = (self.tenant_id, self.secret_id, self.name, self.kind, self.version)
        return json.dumps(["reverie secret", FORMAT, purpose, *parts]).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """A sealed secret, as the database keeps it."""

    key_id: str
    """Of the public key that sealed the data key."""
    sealed_key: bytes = field(repr=False)
    """Format, then HPKE's encapsulated key and ciphertext."""
    ciphertext: bytes = field(repr=False)
    """Format, nonce, then AES-GCM's ciphertext and tag."""


def value_binding(place: SecretPlace) -> bytes:
    """What the value is bound to."""
    return place.bind("value")


def key_binding(place: SecretPlace, key_id: str) -> bytes:
    """What the data key is bound to."""
    return place.bind(f"data key for {key_id}")
