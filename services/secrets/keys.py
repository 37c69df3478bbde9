"""Keys as settings hold them: ``x25519-public-`` or ``x25519-private-`` and 64 hex digits."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from services.secrets.envelope import SUITE

_PUBLIC: Final = "x25519-public-"
_PRIVATE: Final = "x25519-private-"
_KEY_BYTES: Final = 32


class BadKeyError(ValueError):
    """A text is not a key of the wanted kind; the message does not quote it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKey:
    """Seals secrets."""

    key_id: str
    """The first 16 hex digits of the SHA-256 of the key."""
    key: X25519PublicKey = field(repr=False)


def new_private_key() -> str:
    """The text of a fresh private key."""
    return _PRIVATE + X25519PrivateKey.generate().private_bytes_raw().hex()


def public_text(private: str) -> str:
    """The text of the public key that belongs to a private one. Raises BadKeyError."""
    return _PUBLIC + parse_private(private).public_key().public_bytes_raw().hex()


def parse_public(text: str) -> PublicKey:
    """Raises BadKeyError."""
    if text.startswith(_PRIVATE):
        raise BadKeyError("it is a private key; only the public one belongs here")
    key = X25519PublicKey.from_public_bytes(_bytes_of(text, _PUBLIC))
    try:
        SUITE.encrypt(b"", key)
    except ValueError:
        raise BadKeyError("it is no key of X25519") from None
    return public_key(key)


def parse_private(text: str) -> X25519PrivateKey:
    """Raises BadKeyError."""
    return X25519PrivateKey.from_private_bytes(_bytes_of(text, _PRIVATE))


def public_key(key: X25519PublicKey) -> PublicKey:
    """The key with its id."""
    digest = hashlib.sha256(key.public_bytes_raw()).hexdigest()
    return PublicKey(key_id=digest[:16], key=key)


def _bytes_of(text: str, prefix: str) -> bytes:
    digits = text.removeprefix(prefix)
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if digits == text or len(key) != _KEY_BYTES:
        raise BadKeyError(f"it has to be {prefix} and {2 * _KEY_BYTES} hex digits")
    return key
