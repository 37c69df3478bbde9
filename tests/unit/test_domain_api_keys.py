"""The form of a key: what can be one is told from what cannot without a database."""

import string

import pytest

from services.domain.api_keys import KeyKind, kind_of, new_key


@pytest.mark.parametrize(("kind", "length"), [("rv_", 52), ("rvo_", 53)])
def test_a_new_key_has_its_kind_and_no_two_are_equal(kind: KeyKind, length: int) -> None:
    keys = {new_key(kind) for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert len(key) == length
        assert key.startswith(kind)
        assert kind_of(key) == kind


@pytest.mark.parametrize("kind", ["rv_", "rvo_"])
def test_every_single_wrong_character_is_noticed(kind: KeyKind) -> None:
    key = new_key(kind)
    for position in range(len(kind), len(key)):
        for character in string.ascii_letters + string.digits:
            wrong = key[:position] + character + key[position + 1 :]
            assert kind_of(wrong) == (kind if wrong == key else None)


@pytest.mark.parametrize("kind", ["rv_", "rvo_"])
def test_a_key_that_was_cut_off_or_is_of_the_other_kind_is_none(kind: KeyKind) -> None:
    key = new_key(kind)
    assert kind_of(key + "a") is (None if kind == "rvo_" else "rv_")  # as long as an old key may be
    assert kind_of(f" {key}") is None
    assert kind_of(key.replace(kind, {"rv_": "rvo_", "rvo_": "rv_"}[kind])) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rv_" + "aB3_-" * 8 + "xyz", "rv_"),  # 43 characters, as keys were until now
        ("rv_0123456789abcdef", "rv_"),
        ("rv_short", None),
        ("rv_" + "a" * 49, None),
        ("rv_" + "-" * 49, None),
        ("rvo_" + "a" * 43, None),
        ("rvw_" + "a" * 49, None),
        ("", None),
    ],
)
def test_keys_without_a_checksum_go_on_working(text: str, kind: KeyKind | None) -> None:
    assert kind_of(text) == kind
