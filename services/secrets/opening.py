"""Open secrets, or seal them for another key: only ``results`` and the operator's command do."""

from dataclasses import dataclass, field, replace
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from services.secrets.envelope import (
    FORMAT,
    NONCE_BYTES,
    SUITE,
    Envelope,
    KeyMissingError,
    SecretDamagedError,
    SecretPlace,
    key_binding,
    value_binding,
)
from services.secrets.keys import PublicKey, parse_private, public_key
from services.secrets.sealing import seal_data_key


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateKeys:
    """The private keys of a process: the newest, and older ones whose seals still stand."""

    newest: PublicKey
    """The public key of the first; ``seal_again`` seals for it."""
    by_id: dict[str, X25519PrivateKey] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys by comma, the newest first. Raises BadKeyError."""
        keys = [parse_private(each.strip()) for each in text.split(",")]
        named = [(public_key(key.public_key()), key) for key in keys]
        return cls(newest=named[0][0], by_id={each.key_id: key for each, key in named})


def open_secret(envelope: Envelope, place: SecretPlace, keys: PrivateKeys) -> SecretStr:
    """The value. Raises KeyMissingError or SecretDamagedError."""
    body = _content(envelope.ciphertext)
    data_key = _data_key(envelope, place, keys)
    nonce, encrypted = body[:NONCE_BYTES], body[NONCE_BYTES:]
    try:
        value = AESGCM(data_key).decrypt(nonce, encrypted, value_binding(place))
        return SecretStr(value.decode())
    except (InvalidTag, ValueError):
        raise SecretDamagedError("its value was changed, or belongs to another row") from None


def seal_again(envelope: Envelope, place: SecretPlace, keys: PrivateKeys) -> Envelope:
    """The same value, with its data key sealed for the newest key. Raises as ``open_secret``."""
    data_key = _data_key(envelope, place, keys)
    newest = keys.newest
    return replace(
        envelope, key_id=newest.key_id, sealed_key=seal_data_key(data_key, place, newest)
    )


def _data_key(envelope: Envelope, place: SecretPlace, keys: PrivateKeys) -> bytes:
    key = keys.by_id.get(envelope.key_id)
    if key is None:
        raise KeyMissingError(envelope.key_id)
    sealed, binding = _content(envelope.sealed_key), key_binding(place, envelope.key_id)
    try:
        return SUITE.decrypt(sealed, key, binding)
    except (InvalidTag, ValueError):
        raise SecretDamagedError("its data key was changed, or belongs to another row") from None


def _content(part: bytes) -> bytes:
    if part[:1] != bytes([FORMAT]):
        raise SecretDamagedError("it is of a format that this version does not know")
    return part[1:]
