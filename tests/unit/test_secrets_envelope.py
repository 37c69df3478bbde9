"""Sealed secrets: only the right key opens them, in the right row, and nothing that was changed."""

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.secrets.envelope import (
    Envelope,
    KeyMissingError,
    SecretDamagedError,
    SecretPlace,
    SecretUnreadableError,
    key_binding,
    value_binding,
)
from services.secrets.keys import (
    BadKeyError,
    new_private_key,
    parse_private,
    parse_public,
    public_text,
)
from services.secrets.opening import PrivateKeys, open_secret, seal_again
from services.secrets.sealing import seal

PRIVATE = "x25519-private-" + "0b" * 32
PUBLIC = parse_public(public_text(PRIVATE))
KEYS = PrivateKeys.parse(PRIVATE)
PLACE = SecretPlace(
    tenant_id="ten_1", secret_id="sec_1", name="my-hub", kind="hub", version=3
)  # fmt: skip
VALUE = "hf_what nobody may see"
SEALED = seal(SecretStr(VALUE), PLACE, PUBLIC)

# Written by the first version: every later one has to open it.
FIRST = Envelope(
    key_id="5eb94746bbabfdb0",
    sealed_key=bytes.fromhex(
        "01d0d3223920d2be9058b203bce47aa3d6688733fa32c838e64e9e68ddb63acf3d96df52855b298f"
        "5790d8eb74e4a890aeed9e696b019d15b6a691d624ebd9b6426cb673d2a96cd851a019536ecd986f"
        "f4"
    ),
    ciphertext=bytes.fromhex(
        "0177b61467de3c6aa958b6fbfe7c039c28310136121baae1f40b542e85c5c5d77e84cb927b524663"
        "16c5e318ee4597a6f03a07"
    ),
)


def opened(envelope: Envelope, place: SecretPlace = PLACE, keys: PrivateKeys = KEYS) -> str:
    return open_secret(envelope, place, keys).get_secret_value()


def test_what_the_first_version_sealed_is_opened() -> None:
    assert opened(FIRST) == VALUE


def test_the_form_is_hpke_and_aes_gcm_as_published() -> None:
    """Opened by the steps of RFC 9180 (base mode), written out here."""
    suite = b"HPKE" + bytes.fromhex("0020 0001 0002")
    encapsulated, sealed = SEALED.sealed_key[1:33], SEALED.sealed_key[33:]
    own = parse_private(PRIVATE)
    dh = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    kem = b"KEM" + bytes.fromhex("0020")
    prk = _extract(b"", b"HPKE-v1" + kem + b"eae_prk" + dh)
    context = encapsulated + own.public_key().public_bytes_raw()
    shared = _expand(prk, b"\0\x20HPKE-v1" + kem + b"shared_secret" + context, 32)
    info = key_binding(PLACE, SEALED.key_id)
    schedule = (
        b"\0"
        + _extract(b"", b"HPKE-v1" + suite + b"psk_id_hash")
        + _extract(b"", b"HPKE-v1" + suite + b"info_hash" + info)
    )
    secret = _extract(shared, b"HPKE-v1" + suite + b"secret")
    key = _expand(secret, b"\0\x20HPKE-v1" + suite + b"key" + schedule, 32)
    nonce = _expand(secret, b"\0\x0cHPKE-v1" + suite + b"base_nonce" + schedule, 12)
    data_key = AESGCM(key).decrypt(nonce, sealed, b"")
    body = SEALED.ciphertext[1:]
    assert AESGCM(data_key).decrypt(body[:12], body[12:], value_binding(PLACE)) == VALUE.encode()


def _extract(salt: bytes, material: bytes) -> bytes:
    return hmac.new(salt or bytes(32), material, hashlib.sha256).digest()


def _expand(key: bytes, info: bytes, num_bytes: int) -> bytes:
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()[:num_bytes]


@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_value_comes_back_and_no_two_seals_are_alike(value: str) -> None:
    first, second = (seal(SecretStr(value), PLACE, PUBLIC) for _ in range(2))
    assert opened(first) == opened(second) == value
    assert first.ciphertext != second.ciphertext
    assert first.sealed_key != second.sealed_key
    if len(value) > 3:
        assert value.encode() not in first.ciphertext


@given(data=st.data(), part=st.sampled_from(["sealed_key", "ciphertext"]))
def test_no_changed_bit_is_accepted(data: st.DataObject, part: str) -> None:
    content = bytearray(getattr(SEALED, part))
    position = data.draw(st.integers(0, len(content) * 8 - 1))
    content[position // 8] ^= 1 << position % 8
    changed: Any = {part: bytes(content)}
    with pytest.raises(SecretDamagedError):
        opened(replace(SEALED, **changed))


@given(part=st.sampled_from(["sealed_key", "ciphertext"]), content=st.binary(max_size=120))
def test_other_bytes_are_refused(part: str, content: bytes) -> None:
    for each in (content, b"\x01" + content):
        changed: Any = {part: each}
        with pytest.raises(SecretDamagedError):
            opened(replace(SEALED, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"tenant_id": "ten_2"},
        {"secret_id": "sec_2"},
        {"name": "other"},
        {"kind": "wandb"},
        {"version": 4},
        {"tenant_id": "ten_1, sec_1", "secret_id": ""},
    ],
)
def test_in_another_row_it_is_not_opened(changed: dict[str, Any]) -> None:
    elsewhere = replace(PLACE, **changed)
    with pytest.raises(SecretDamagedError):
        opened(SEALED, elsewhere)
    with pytest.raises(SecretDamagedError):
        seal_again(SEALED, elsewhere, KEYS)


def test_parts_of_two_secrets_do_not_fit_together() -> None:
    other = seal(SecretStr("another"), PLACE, PUBLIC)
    with pytest.raises(SecretDamagedError):
        opened(replace(SEALED, ciphertext=other.ciphertext))


def test_another_private_key_opens_nothing() -> None:
    stranger = new_private_key()
    with pytest.raises(KeyMissingError, match=SEALED.key_id):
        opened(SEALED, keys=PrivateKeys.parse(stranger))
    renamed = replace(SEALED, key_id=PrivateKeys.parse(stranger).newest.key_id)
    with pytest.raises(SecretDamagedError):
        opened(renamed, keys=PrivateKeys.parse(f"{stranger},{PRIVATE}"))


def test_after_a_rotation_the_old_key_is_not_needed() -> None:
    fresh = new_private_key()
    both = PrivateKeys.parse(f"{fresh}, {PRIVATE}")
    rotated = seal_again(SEALED, PLACE, both)
    assert rotated.ciphertext == SEALED.ciphertext
    assert rotated.key_id == parse_public(public_text(fresh)).key_id != SEALED.key_id
    assert opened(rotated, keys=PrivateKeys.parse(fresh)) == VALUE
    assert opened(SEALED, keys=both) == VALUE
    with pytest.raises(KeyMissingError):
        opened(rotated)


def test_nothing_shows_a_key_or_a_value() -> None:
    shown = repr([SEALED, PUBLIC, KEYS, open_secret(SEALED, PLACE, KEYS)])
    for hidden in (VALUE, "0b0b", SEALED.sealed_key.hex(), repr(SEALED.ciphertext)):
        assert hidden not in shown
    for damaged in (replace(SEALED, ciphertext=b"\x01"), replace(SEALED, key_id="f" * 16)):
        with pytest.raises(SecretUnreadableError) as error:
            opened(damaged)
        assert VALUE not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x25519-public-",
        "x25519-public-" + "zz" * 32,
        "x25519-public-" + "ab" * 31,
        "x25519-public-" + "00" * 32,  # every shared secret would be zero
        "ab" * 32,
        PRIVATE,
    ],
)
def test_a_text_that_is_no_public_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(BadKeyError) as error:
        parse_public(text)
    assert "0b0b" not in str(error.value)


@pytest.mark.parametrize("text", ["", "x25519-private-", public_text(PRIVATE), PRIVATE + ","])
def test_a_text_that_is_no_private_key_is_refused(text: str) -> None:
    with pytest.raises(BadKeyError):
        PrivateKeys.parse(text)


def test_new_keys_differ() -> None:
    assert len({new_private_key() for _ in range(3)}) == 3
    assert isinstance(parse_private(new_private_key()), X25519PrivateKey)
