"""The form of a key: a prefix that names its kind, 43 random characters, and a checksum of both.

A mistyped key is refused without a look at the database, and whoever searches files for leaked keys
can tell one from other text.
"""

import re
import secrets
import string
import zlib
from typing import Final, Literal, get_args

KeyKind = Literal["rv_", "rvo_", "rvw_"]
"""``rv_``: of a tenant. ``rvo_``: of an operator of the service. ``rvw_``: of a remote worker."""

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_CHARACTERS: Final = 43
"""Of 62 digits: 256 bits."""
_CHECKSUM_CHARACTERS: Final = 6
_KINDS: Final[dict[str, KeyKind]] = {kind: kind for kind in get_args(KeyKind)}
_KEY: Final = re.compile(r"(rv_|rvo_|rvw_)[0-9A-Za-z]{43}[0-9A-Za-z]{6}")
# Of the versions before: without a checksum, and 43 characters long.
_OLD_KEY: Final = re.compile(r"rv_(?![A-Za-z0-9_-]{49}$)[A-Za-z0-9_-]{16,128}")


def new_key(kind: KeyKind) -> str:
    """A fresh key of 256 random bits."""
    text = kind + "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_CHARACTERS))
    return text + _checksum(text)


def kind_of(text: str) -> KeyKind | None:
    """What kind of key the text can be; None where it can be none, as with a wrong checksum."""
    if found := _KEY.fullmatch(text):
        is_whole = text[-_CHECKSUM_CHARACTERS:] == _checksum(text[:-_CHECKSUM_CHARACTERS])
        return _KINDS[found[1]] if is_whole else None
    return "rv_" if _OLD_KEY.fullmatch(text) else None


def _checksum(text: str) -> str:
    """CRC-32 in base 62."""
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
