"""Seal a secret. It takes a public key only, so who seals cannot open what is stored."""

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from services.secrets.envelope import (
    DATA_KEY_BITS,
    FORMAT,
    NONCE_BYTES,
    SUITE,
    Envelope,
    SecretPlace,
    key_binding,
    value_binding,
)
from services.secrets.keys import PublicKey


def seal(value: SecretStr, place: SecretPlace, key: PublicKey) -> Envelope:
    """The value under a fresh data key, and that under the public key."""
    data_key, nonce = AESGCM.generate_key(DATA_KEY_BITS), os.urandom(NONCE_BYTES)
    content = value.get_secret_value().encode()
    encrypted = AESGCM(data_key).encrypt(nonce, content, value_binding(place))
    return Envelope(
        key_id=key.key_id,
        sealed_key=seal_data_key(data_key, place, key),
        ciphertext=bytes([FORMAT]) + nonce + encrypted,
    )


def seal_data_key(data_key: bytes, place: SecretPlace, key: PublicKey) -> bytes:
    """The data key of the secret in this place, sealed."""
    return bytes([FORMAT]) + SUITE.encrypt(data_key, key.key, key_binding(place, key.key_id))
